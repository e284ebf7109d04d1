"""Does meta-saliency make maps more sensitive to the class? docs/meta_saliency.md and its picture.

    python benchmarks/meta_saliency.py > docs/meta_saliency.md

Uses the embedded scenes, and, where the folder named by CEA_DATA (default ../shared/data) exists, ImageNet images with
SqueezeNet. The study takes about 20 minutes on two cores, `--speed` alone one.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from captum.attr import LayerAttribution
from PIL import Image
from scipy.stats import rankdata, wilcoxon
from torch import Tensor, nn

import captum_extract_aggregate as cea

matplotlib.use("Agg")
from matplotlib import pyplot as plt

DATA = Path(os.environ.get("CEA_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
PICTURE = Path(__file__).parent.parent / "docs" / "meta_saliency.png"
METHODS = {
    "NormGrad": cea.NormGrad,
    "selective NormGrad": cea.SelectiveNormGrad,
    "linear approximation": cea.LinearApproximation,
    "gradient": cea.LayerGradient,
    "GradCAM": cea.GradCAM,
}
RATES = (0.0, 1e-4, 1e-3, 2.5e-3, 1e-2)
Correlations = dict[tuple[str, str, float], list[float]]


class Together(LayerAttribution):
    """All methods from one pass, so that one step serves them all."""

    def __init__(self, model: nn.Module, layers: list[str]) -> None:
        super().__init__(model, [model.get_submodule(layer) for layer in layers])
        self.methods = {name: cls(model, layers) for name, cls in METHODS.items()}

    def attribute(self, inputs: Tensor, target: int) -> list[Tensor]:
        maps = cea.attribute_together(self.methods, inputs, target)
        return [m for name in METHODS for m in maps[name]]


def scenes(n: int) -> Iterator[Tensor]:
    return (image[None] for image, _ in (cea.DigitScenes(n, seed=200)[i] for i in range(n)))


def photographs(n: int) -> Iterator[Tensor]:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for path in sorted((DATA / "imagenet_sample").glob("*.jpg"))[:: 1000 // n][:n]:
        with Image.open(path) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255
        size = [round(224 * side / min(pixels.shape[2:])) for side in pixels.shape[2:]]
        small = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        top, left = (small.shape[2] - 224) // 2, (small.shape[3] - 224) // 2
        yield (small[:, :, top : top + 224, left : left + 224] - mean[:, None, None]) / std[:, None, None]


def ranks(m: Tensor, size: tuple[int, int]) -> Tensor:
    """Centred mid-ranks of a map's pixels, of length 1; NaN for a constant map."""
    pixels = F.interpolate(m, size, mode="bilinear").flatten().double().numpy()
    centred = torch.from_numpy(rankdata(pixels) - (len(pixels) + 1) / 2)
    return centred / centred.norm()


def study(model: nn.Module, layers: list[str], images: Iterator[Tensor], loss: str) -> Correlations:
    """For each method, layer and learning rate, every image's correlation of its max-class and min-class maps."""
    together = Together(model, layers)
    found: Correlations = {(name, layer, lr): [] for name in METHODS for layer in layers for lr in RATES}
    for x in images:
        with torch.no_grad():
            scores = model(x)[0]
        classes = int(scores.argmax()), int(scores.argmin())
        for lr in RATES:
            meta = cea.MetaSaliency(together, lr=lr, loss_func=loss, model=model)
            maps = [[ranks(m, x.shape[2:]) for m in meta.attribute(x, target=c)] for c in classes]
            names = [(name, layer) for name in METHODS for layer in layers]
            for (name, layer), most, least in zip(names, *maps):
                found[name, layer, lr].append(float(most @ least))
    return found


def cell(plain: list[float], meta: list[float] | None) -> str:
    """Mean ± s.d., and for a step the p of the paired test that the magnitude of the correlation differs."""
    values = np.array(plain if meta is None else meta)
    defined = values[~np.isnan(values)]
    undefined = len(values) - len(defined)
    text = f"{defined.mean():.2f} ± {defined.std(ddof=1):.2f}" if len(defined) > 1 else "undefined"
    if meta is not None:
        pairs = np.array([(abs(a), abs(b)) for a, b in zip(plain, meta) if a == a and b == b])
        if len(pairs) > 1 and not np.allclose(pairs[:, 0], pairs[:, 1]):
            p = wilcoxon(pairs[:, 0], pairs[:, 1]).pvalue
            sign = "↓" if pairs[:, 1].mean() < pairs[:, 0].mean() else "↑"
            text += f" {sign}" if p < 0.001 else f" {sign} p={p:.2f}" if p >= 0.01 else f" {sign} p={p:.3f}"
    return text + (f" ({undefined} undefined)" if undefined else "")


def table(found: Correlations, layers: list[str]) -> Iterator[str]:
    yield "| | layer | plain | " + " | ".join(f"lr {lr:g}" for lr in RATES[1:]) + " |"
    yield "|---" * (len(RATES) + 2) + "|"
    for name in METHODS:
        for layer in layers:
            plain = found[name, layer, 0.0]
            cells = [cell(plain, None)] + [cell(plain, found[name, layer, lr]) for lr in RATES[1:]]
            yield f"| {name} | {layer} | {' | '.join(cells)} |"


def draw(studies: dict[str, tuple[Correlations, list[str]]]) -> None:
    figure, axes = plt.subplots(len(studies), len(METHODS), figsize=(15, 3.2 * len(studies)), sharey=True)
    for row, (title, (found, layers)) in zip(axes, studies.items()):
        for ax, name in zip(row, METHODS):
            for layer, marker in zip(layers, "osD"):
                means = [np.nanmean(np.abs(found[name, layer, lr])) for lr in RATES]
                ax.plot(range(len(RATES)), means, marker=marker, label=layer)
            ax.set_title(f"{title}: {name}", fontsize=9)
            ax.set_xticks(range(len(RATES)), ["plain", *(f"{lr:g}" for lr in RATES[1:])], fontsize=8)
            ax.set_ylim(0, 1)
            ax.grid(alpha=0.3)
        row[0].set_ylabel("|Spearman|, max- vs min-class map")
        row[0].legend(fontsize=8)
    for ax in axes[-1]:
        ax.set_xlabel("learning rate of the step")
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=70)


def speed() -> Iterator[str]:
    """Each example by itself against all together, interleaved; and the step against its parts."""
    from tests.networks import CifarResNet20, lively

    def networks() -> dict[str, tuple[nn.Module, int, list[str]]]:
        return {
            "CIFAR ResNet-20, 32 x 32": (lively(CifarResNet20()), 32, ["layer2", "layer3"]),
            "scene VGG, 96 x 96": (cea.load_scene_model("vgg"), 96, ["features.13"]),
            "scene ResNet, 96 x 96": (cea.load_scene_model("resnet"), 96, ["layer3"]),
            "SqueezeNet, 128 x 128": (torchvision.models.squeezenet1_1().eval(), 128, ["features.7"]),
            "MobileNetV2, 112 x 112": (torchvision.models.mobilenet_v2().eval(), 112, ["features.13"]),
            "ResNet-18, 112 x 112": (torchvision.models.resnet18().eval(), 112, ["layer3"]),
        }

    def ratios(first: Callable[[], object], second: Callable[[], object], n: int = 7) -> list[float]:
        first(), second()
        found = []
        for _ in range(n):
            times = []
            for run in (first, second):
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
            found.append(times[0] / times[1])
        return sorted(found)

    yield "| network | batch | loop / together: median (range of 7) | chosen by itself |"
    yield "|---|---|---|---|"
    for name, (model, size, layers) in networks().items():
        for batch in (4, 16):
            x, y = torch.randn(batch, 3, size, size), torch.arange(batch) % 5
            loop, fast = (cea.MetaSaliency(cea.NormGrad(model, layers), vectorized=v) for v in (False, True))
            found = ratios(lambda: loop.attribute(x, target=y), lambda: fast.attribute(x, target=y))  # noqa: B023
            chosen = "together" if cea.MetaSaliency(cea.NormGrad(model, layers))._is_vectorized(x) else "loop"
            yield f"| {name} | {batch} | {statistics.median(found):.2f} ({found[0]:.2f} - {found[-1]:.2f}) | {chosen} |"
    model, x = torchvision.models.resnet50().eval(), torch.randn(1, 3, 224, 224)
    method = cea.NormGrad(model, "layer4")
    meta = cea.MetaSaliency(method)

    def parts() -> None:
        loss = F.cross_entropy(model(x), torch.tensor([3]))
        torch.autograd.grad(loss, list(model.parameters()))
        method.attribute(x, target=3)

    found = ratios(lambda: meta.attribute(x, target=3), parts)
    yield ""
    yield (
        "One example, ResNet-50, 224 x 224: the whole against its parts (a forward and backward with all parameters' "
        f"gradients, and NormGrad): {statistics.median(found):.2f} ({found[0]:.2f} - {found[-1]:.2f})."
    )


TEXT = Path(__file__).with_name("meta_saliency_text.md")


def main() -> None:
    if "--speed" in sys.argv:
        print("\n".join(speed()))
        return
    print(TEXT.read_text().rstrip())
    subjects = {}
    for name in ("vgg", "resnet"):
        model = cea.load_scene_model(name)
        layers = list(cea.default_layers(model))[-3:]
        subjects[f"scene-{name}"] = (model, layers, lambda: scenes(200), "binary_cross_entropy")
    if DATA.is_dir():
        model = torchvision.models.squeezenet1_1().eval()
        model.load_state_dict(torch.load(DATA / "models/squeezenet1_1-imagenet.pth", weights_only=True))
        layers = ["features.4", "features.7", "features.12"]
        subjects["SqueezeNet"] = (model, layers, lambda: photographs(200), "cross_entropy")
    studies = {}
    for title, (model, layers, images, loss) in subjects.items():
        found = study(model, layers, images(), loss)
        studies[title] = (found, layers)
        n = len(next(iter(found.values())))
        print(f"\n## {title}: {n} images, {loss.replace('_', ' ')} of the explained class\n")
        print("\n".join(table(found, layers)), flush=True)
    draw(studies)
    print("\n## Speed\n")
    print("\n".join(speed()))


if __name__ == "__main__":
    main()
