"""Measures, meta-saliency, propagation rules, evaluation and the import, each against its parts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import skimage.data
import torch
from captum.attr import Attribution, Saliency
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor, nn

import captum_extract_aggregate as cea
from benchmarks.performance.floor import NETWORKS, gradients, images, network
from benchmarks.performance.timing import Row, one_thread, ratios, row
from benchmarks.propagation import METHODS as RULES
from captum_extract_aggregate import metrics
from captum_extract_aggregate.data.models_by_name import load_subject
from captum_extract_aggregate.evaluation import DataPlan, MeasurePlan, MethodPlan, ModelPlan, Plan, RunPlan
from captum_extract_aggregate.evaluation import run as evaluate
from captum_extract_aggregate.evaluation.datasets import open_images, to_image_size

Z_PLUS = ("ExcitationBackprop", "ContrastiveExcitationBackprop", "LRP, gamma infinite")
GATED = ("GuidedBackprop", "Deconvolution", "RectGrad")


def pixel_removal() -> Iterator[Row]:
    """Against the bare forwards of batches of the same sizes, and Quantus's number of forwards."""
    for name, model, x, step in (
        ("scene-vgg", cea.load_scene_model("vgg"), _scenes(16), 32),
        ("resnet50", network("resnet50"), images(4), 3136),
    ):
        maps = cea.NormGrad(model, list(cea.default_layers(model))[-1]).attribute(x, target=3)
        sizes: list[int] = []
        handle = model.register_forward_pre_hook(lambda _m, args: sizes.append(len(args[0])))  # noqa: B023
        metrics.pixel_removal(model, x, maps, step=step)
        handle.remove()

        def bare() -> None:
            with torch.no_grad():
                for n in sizes:  # noqa: B023
                    model(x[:n])  # noqa: B023

        found = ratios(lambda: metrics.pixel_removal(model, x, maps, step=step), bare)  # noqa: B023
        rows = sum(sizes)
        note = f"{rows / len(x):.0f} forwards an image" + _quantus(model, x, maps, step)
        yield row("pixel removal", f"{name}, {len(x)} images, {step} pixels at a time", found, limit=1.15, note=note)


def _quantus(model: nn.Module, x: Tensor, maps: Tensor, step: int) -> str:
    """How many forwards Quantus's PixelFlipping takes for a curve of the same resolution, where it can give one."""
    if x[0, 0].numel() % (step * x.shape[1]):
        return ""  # it refuses
    try:
        import quantus
    except ImportError:
        return ""
    rows: list[int] = []
    handle = model.register_forward_pre_hook(lambda _m, args: rows.append(len(args[0])))
    whole = torch.nn.functional.interpolate(maps, x.shape[2:], mode="bilinear").expand_as(x)
    labels = model(x).argmax(1)
    rows.clear()
    flipping = quantus.PixelFlipping(
        features_in_step=step * x.shape[1], disable_warnings=True, perturb_baseline="black"
    )
    flipping(model=model, x_batch=x.numpy(), y_batch=labels.numpy(), a_batch=whole.numpy(), device="cpu")
    handle.remove()
    return f"; Quantus {quantus.__version__}: {sum(rows) / len(x):.0f}"


def _scenes(n: int) -> Tensor:
    return torch.stack([image for image, _ in cea.DigitScenes(n)])


def curves() -> Iterator[Row]:
    """Curves against their bare forwards, randomisation against its explanations, and the Gini index against a sort.

    ResNet-18, 8 pictures of 112 x 112, 9 steps, all layers drawn anew; processor time of one thread.
    """
    with one_thread():
        yield from _curves()


def _curves() -> Iterator[Row]:
    model, shares = network("resnet18"), [i / 10 for i in range(1, 10)]
    x = images(8)[..., :112, :112].contiguous()
    maps = torch.rand(8, 1, 7, 7, generator=torch.Generator().manual_seed(0))

    def bare() -> None:
        with torch.no_grad():
            for _ in shares:
                model(x)

    for imputer, limit in (("constant", 1.05), ("road", 1.25)):
        found = ratios(
            lambda: metrics.perturbation_curve(model, x, maps, 3, fractions=shares, imputer=imputer),  # noqa: B023
            bare,
            8,
            time.process_time,
        )
        yield row("curves", f"perturbation curve, imputer {imputer}", found, limit=limit)
    yield from _randomised(model, x)
    many = torch.rand(16, 1, 224, 224, generator=torch.Generator().manual_seed(0))
    found = ratios(lambda: metrics.sparseness(many), lambda: np.sort(many.flatten(1).numpy(), 1), 8, time.process_time)
    yield row("curves", "sparseness of 16 maps of 224 x 224, over NumPy's sort", found, limit=2)


def _randomised(model: nn.Module, x: Tensor) -> Iterator[Row]:
    many = images(32)[..., :112, :112].contiguous()
    for name, method in {"Saliency": Saliency(model), "NormGrad, last block": cea.NormGrad(model, "layer4")}.items():
        stages = len(metrics.parameter_randomization(method, model, x[:1], 3).stages)
        for case, run, times, pictures, limit in (
            (f"parameter randomisation, {stages} stages", metrics.parameter_randomization, stages + 1, x, 1.05),
            ("eMPRT alone, 32 pictures", metrics.emprt, 2, many, None),
        ):
            explained = _repeated(method, pictures, times)
            found = ratios(lambda: run(method, model, pictures, 3), explained, 8, time.process_time)  # noqa: B023
            yield row("curves", f"{case}, over its {times} explanations, {name}", found, limit=limit)
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = _randomised_in_a_plan(Path(folder), _repeated(Saliency(model), x, stages))
        found = ratios(whole, parts, 8, time.process_time)
    case = f"parameter randomisation and eMPRT of a plan, over the {stages} explanations they share, Saliency"
    yield row("curves", case, found, limit=1.05)


def _repeated(method: Attribution, x: Tensor, times: int) -> Callable[[], None]:
    def explained() -> None:
        for _ in range(times):
            method.attribute(x, target=3)

    return explained


def _randomised_in_a_plan(
    folder: Path, explained: Callable[[], None]
) -> tuple[Callable[[], object], Callable[[], object]]:
    """A run of both measures, and a run of a measure that needs neither, beside the explanations."""
    _photographs(folder, 8)

    def run(*measures: MeasurePlan) -> None:
        shutil.rmtree(folder / "results", ignore_errors=True)
        plan = Plan(
            model=ModelPlan("resnet18", "random"),
            data=DataPlan("list", file=str(folder / "list.tsv"), size=112),
            methods=[MethodPlan("captum:Saliency")],
            measures=list(measures),
            run=RunPlan(batch_size=8, threads=1),
        )
        evaluate(plan, folder / "results", show_progress=False)

    def parts() -> None:
        run(MeasurePlan("sparseness"))
        explained()

    both = MeasurePlan("parameter_randomization"), MeasurePlan("emprt", arguments={"init": "normal"})
    return lambda: run(*both), parts


def spearman() -> Iterator[Row]:
    """A batch of maps of 224 x 224, against SciPy map by map; equal to the last digits."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(16, 1, 224, 224, generator=generator) for _ in range(2))
    for name, (p, q) in {"no ties": (a, b), "half of it zero": (a.clamp(min=0), b.clamp(min=0))}.items():

        def scipy() -> list[float]:
            return [spearmanr(u.flatten(), v.flatten()).statistic for u, v in zip(p, q)]  # noqa: B023

        np.testing.assert_allclose(metrics.spearman(p, q), scipy(), rtol=0, atol=1e-12)
        found = ratios(scipy, lambda: metrics.spearman(p, q))  # noqa: B023
        yield row("Spearman", f"SciPy over ours, 16 pairs of 224 x 224, {name}", found, limit=1, at_least=True)


def meta_saliency() -> Iterator[Row]:
    """One example, against its parts: a gradient of all parameters, a step there and back, and the map."""
    for name in ("resnet50", "mobilenet_v2"):
        model, x = network(name), images(1)
        method = cea.NormGrad(model, list(cea.default_layers(model))[-1])
        meta = cea.MetaSaliency(method, lr=0.001)

        def parts() -> None:
            parameters = list(model.parameters())  # noqa: B023
            loss = torch.nn.functional.cross_entropy(model(x), torch.tensor([3]))  # noqa: B023
            gradients = torch.autograd.grad(loss, parameters)
            before = [p.data for p in parameters]
            with torch.no_grad():
                for p, g in zip(parameters, gradients):
                    p.data = p.data - 0.001 * g
            method.attribute(x, target=3)  # noqa: B023
            for p, data in zip(parameters, before):
                p.data = data

        found = ratios(lambda: meta.attribute(x, target=3), parts)  # noqa: B023
        yield row("meta-saliency", f"NormGrad, {name}, one example", found, limit=1.15)


def rules() -> Iterator[Row]:
    """Propagation to the input, against a plain gradient there."""
    for name in NETWORKS[:3]:
        model, x = network(name), images(2)
        for label in (*GATED, *Z_PLUS):
            method = RULES[label](model)
            found = ratios(lambda: method.attribute(x, target=3), gradients(model, x, [None]))  # noqa: B023
            yield row("propagation", f"{label}, {name}", found, limit=1.3 if label in GATED else 3)


ROOT = Path(__file__).parents[2]
PLAN = """
layers = ["layer2", "layer3", "layer4"]
[data]
kind = "scenes"
n = {n}
[model]
name = "scene-resnet"
[[methods]]
method = "normgrad"
[[methods]]
method = "linear-approximation"
[[measures]]
measure = "class_sensitivity"
[[measures]]
measure = "pixel_removal"
arguments = {{ step = 1024 }}
"""


def _evaluated(n: int, processes: int) -> float:
    """Images per second of a whole run, without the time that one of an image for each process takes."""

    def took(count: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            plan = Path(folder) / "plan.toml"
            plan.write_text(PLAN.format(n=count))
            one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
            launch = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
            command = [sys.executable, *(launch if processes > 1 else []), "-m", "captum_extract_aggregate", "evaluate"]
            start = time.perf_counter()
            subprocess.run([*command, str(plan)], check=True, capture_output=True, cwd=ROOT, env=one_thread)
            return time.perf_counter() - start

    return n / (took(processes + n) - took(processes))


def _photographs(folder: Path, n: int) -> None:
    photos = [Image.fromarray(getattr(skimage.data, name)()) for name in ("chelsea", "coffee", "rocket", "astronaut")]
    for i in range(n):
        photo, corner = photos[i % 4], (i // 4, i // 4)
        photo.crop((*corner, corner[0] + 280, corner[1] + 280)).save(folder / f"{i:02}.jpg")
    (folder / "list.tsv").write_text("".join(f"{i:02}.jpg\t0\n" for i in range(n)), encoding="utf-8")


def _run_and_parts(folder: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    """A run, and its parts by themselves: decoding, the bare passes for two classes, and the measure, which brings
    maps to the image's size and ranks them.

    64 photographs (crops of scikit-image's), 4 methods at 4 layers of a MobileNetV2, class sensitivity.
    """
    _photographs(folder, 64)
    model = network("mobilenet_v2")
    layers = [f"features.{i}" for i in (6, 10, 13, 17)]
    plan = Plan(
        model=ModelPlan("mobilenet_v2", "random"),
        data=DataPlan("list", file=str(folder / "list.tsv")),
        methods=[MethodPlan(name) for name in ("normgrad", "gradcam", "linear-approximation", "gradcam-pos")],
        measures=[MeasurePlan("class_sensitivity")],
        layers=tuple(layers),
        run=RunPlan(batch_size=8, threads=1),
    )
    opened = open_images(plan.data, load_subject("mobilenet_v2", "random"))
    maps = torch.rand(2, 8, 1, 14, 14, generator=torch.Generator().manual_seed(0))

    def whole() -> None:
        shutil.rmtree(folder / "results", ignore_errors=True)
        evaluate(plan, folder / "results", show_progress=False)

    def parts() -> None:
        torch.set_num_threads(1)
        for start in range(0, 64, 8):
            x = torch.stack([opened.read(i).x for i in range(start, start + 8)])
            gradients(model, x, layers, targets=2)()
            for _ in range(4 * len(layers)):
                metrics.spearman(*(to_image_size(m, (224, 224), "bilinear") for m in maps))

    return whole, parts


def evaluation() -> Iterator[Row]:
    """A run against its parts; images per second by the number of images, and by the number of processes; one thread
    each, start not counted."""
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = _run_and_parts(Path(folder))
        found = ratios(whole, parts, 7, time.process_time)
    yield row("evaluation", "64 photographs, 4 methods at 4 layers, over passes, ranks and decoding", found, limit=1.1)
    for case, run, baseline, limit in (
        ("96 images over 24", (96, 1), (24, 1), 0.9),
        ("2 processes over 1, 48 images", (48, 2), (48, 1), 1.7),
    ):
        found = sorted(_evaluated(*run) / _evaluated(*baseline) for _ in range(3))
        yield row("evaluation", f"images per second, {case}", found, limit=limit, at_least=True)


_BARE = """
import sys, captum.attr, torch, torchvision
from PIL import Image
from torchvision.transforms.v2 import functional as TF
model = torchvision.models.mobilenet_v2().eval()
picture = TF.center_crop(TF.resize(Image.open(sys.argv[1]), [256]), [224, 224])
x = TF.to_dtype(TF.to_image(picture), torch.float32, scale=True)[None].requires_grad_()
torch.autograd.grad(model(x).amax(), x)
"""


def imports() -> Iterator[Row]:
    """A fresh interpreter that imports the package, against one that imports torch and captum; and the command that
    draws three methods' maps of a photograph, against one that imports torch, torchvision and captum, builds the
    network and runs it forward and backward."""

    def interpreter(*arguments: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True, cwd=ROOT)

    package, bare = (
        interpreter("-c", f"import {names}") for names in ("captum_extract_aggregate", "torch, captum.attr")
    )
    yield row("import", "the package over torch and captum.attr", ratios(package, bare), limit=1.15)
    with tempfile.TemporaryDirectory() as folder:
        photograph = str(Path(folder) / "cat.png")
        Image.fromarray(skimage.data.chelsea()).save(photograph)
        request = ("--model", "mobilenet_v2", "--weights", "random", "--output", str(Path(folder) / "maps.png"))
        command = interpreter("-m", "captum_extract_aggregate", "explain", photograph, *request)
        found = ratios(command, interpreter("-c", _BARE, photograph))
    yield row("import", "the command `explain` over imports, network and bare passes", found, limit=1.3)
