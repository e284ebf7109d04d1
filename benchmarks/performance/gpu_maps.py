"""Maps on a GPU: against the bare passes, against plain gradients, and against other libraries at equal output."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version

import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

import captum_extract_aggregate as cea
from benchmarks.performance.floor import gradients, stages
from benchmarks.performance.gpu_setting import Case, Failure, Setting, short, working
from benchmarks.performance.maps import METHODS
from benchmarks.performance.peers import PEERS, Peer, saved_bytes
from benchmarks.performance.timing import Row, rows_in_turns
from benchmarks.propagation import METHODS as RULES

WHOLE: dict[str, Callable[[nn.Module], cea.CaptureAttribution[None]]] = {
    **{name: RULES[name] for name in ("GuidedBackprop", "RectGrad", "ExcitationBackprop", "LRP-0")},
    "LRP, gamma infinite": RULES["LRP, gamma infinite"],
    "FullGrad": cea.FullGrad,
}
Sides = dict[str, Callable[[], object]]
SidesOf = Callable[[str, nn.Module, Tensor], Sides]  # of a network by its name, itself, and images


def _compared(
    setting: Setting, section: str, case: str, sides: Sides, limit: float | None = None
) -> Iterator[Row | Failure]:
    running, failures = working(section, case, sides)
    yield from failures
    if len(running) > 1 and next(iter(sides)) in running:
        yield from rows_in_turns(section, case, running, limit, **setting.how)


def _everywhere(
    setting: Setting, section: str, dtype: torch.dtype, sides_of: SidesOf, limit: float | None = None
) -> Iterator[Case]:
    """Yields a case for every network and batch."""
    for batch in setting.batches:
        for name in setting.networks:
            case = f"{name}, batch {batch}"

            def run(name: str = name, batch: int = batch, case: str = case) -> Iterator[Row | Failure]:
                sides = sides_of(name, setting.network(name, dtype), setting.images(batch, dtype))
                yield from _compared(setting, section, case, sides, limit)

            yield Case(section, case, run)


def floors(setting: Setting, dtype: torch.dtype, layers: int) -> Iterator[Case]:
    """Every family over the bare passes to the same layers."""

    def sides_of(name: str, model: nn.Module, x: Tensor) -> Sides:
        places = stages(model, layers)
        methods = {label: partial(make(model, places).attribute, x, target=3) for label, make in METHODS.items()}
        return {"bare passes": gradients(model, x, places), **methods}

    section = f"Maps over the bare passes, {layers} layer(s), {short(dtype)}"
    return _everywhere(setting, section, dtype, sides_of, 1.05)


def rules(setting: Setting, dtype: torch.dtype) -> Iterator[Case]:
    """FullGrad and propagation to the input, over a plain gradient there."""

    def sides_of(name: str, model: nn.Module, x: Tensor) -> Sides:
        refused = ("ExcitationBackprop",) if name.startswith("vit") else ()  # which has no rule for attention
        methods = {
            label: partial(make(model).attribute, x, target=3) for label, make in WHOLE.items() if label not in refused
        }
        return {"plain gradient": gradients(model, x, [None]), **methods}

    return _everywhere(setting, f"Over a plain gradient at the input, {short(dtype)}", dtype, sides_of)


def targets(setting: Setting) -> Iterator[Case]:
    """Several targets of one image, one backward each; and for the eye one backward of all by vmap."""
    section = "Several targets, over a forward and as many backwards"
    for name in setting.networks[:3]:
        for count in setting.targets:
            case = f"{name}, batch 1, 4 layers, {count} targets"

            def run(name: str = name, count: int = count, case: str = case) -> Iterator[Row | Failure]:
                model, x = setting.network(name), setting.images(1)
                places = stages(model, 4)
                method, wanted = cea.NormGrad(model, places), list(range(3, 3 + count))
                sides: Sides = {
                    "bare passes": gradients(model, x, places, count),
                    "NormGrad": partial(method.attribute_per_target, x, wanted),
                    "bare passes, backward batched": gradients(model, x, places, count, batched=True),
                }
                yield from _compared(setting, section, case, sides)

            yield Case(section, case, run)


def peers(setting: Setting) -> Iterator[Case]:
    """Other libraries over ours at equal output, on a copy of the model each: their hooks may stay there."""
    section = "Other libraries over ours, float32"
    networks = {"zennit": setting.networks[-1:], "lxt": setting.networks[2:3]}  # the former merges no BatchNorm
    for library, make in PEERS.items():
        for batch in setting.batches if library in ("captum", "torchcam") else (1,):
            for name in networks.get(library, setting.networks[:2]):
                case = f"{library}, {name}, batch {batch}"

                def run(
                    name: str = name, batch: int = batch, case: str = case, make: Peer = make
                ) -> Iterator[Row | Failure]:
                    model, x = setting.network(name), setting.images(batch)
                    with ExitStack() as held:
                        ours, theirs, what = make(model, copy.deepcopy(model), x, held)
                        library = case.partition(",")[0]
                        sides: Sides = {"ours": ours, f"{library} {version(library)}": theirs}
                        yield from _compared(setting, section, f"{what}, {name}, batch {batch}", sides)

                yield Case(section, case, run)


def peak(run: Callable[[], object]) -> int:
    """Bytes that a call needs at most beyond what is held before it; on a CPU those that autograd keeps."""
    if not torch.cuda.is_available():
        return saved_bytes(run)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def memory(setting: Setting) -> Case:
    """The peak of one call, over the largest of Captum's calls."""

    def run() -> Iterator[Row | Failure]:
        for name in setting.networks[:2]:
            model, x = setting.network(name), setting.images(setting.batches[-1])
            for count in (1, 4):
                places = stages(model, count)
                ours = cea.GradCAM(model, places)
                mine = peak(partial(ours.attribute, x, target=3))
                calls = [LayerGradCam(model, model.get_submodule(place)).attribute for place in places]
                theirs = max(peak(partial(call, x, target=3)) for call in calls)
                share = 100 * mine / theirs
                note = f"{mine / 2**20:.0f} of {theirs / 2**20:.0f} MiB"
                case = f"GradCAM, {name}, batch {len(x)}, {count} layer(s), of Captum's peak"
                yield Row("Peak memory", case, share, share, share, 1, unit="%", note=note)

    return Case("Peak memory", "against Captum", run)
