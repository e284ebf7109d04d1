"""What the propagation rules cost, against a plain gradient. docs/propagation.md.

python benchmarks/propagation.py > docs/propagation.md
"""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.one_pass import places_of

METHODS: dict[str, Callable[[nn.Module], cea.GuidedBackprop]] = {
    "GuidedBackprop": cea.GuidedBackprop,
    "Deconvolution": cea.Deconvolution,
    "RectGrad": cea.RectGrad,
    "RectGradMod": cea.RectGradMod,
    "ExcitationBackprop": cea.ExcitationBackprop,
    "LRP, gamma infinite": lambda model: cea.LRP(model, gamma=math.inf),
    "ContrastiveExcitationBackprop": cea.ContrastiveExcitationBackprop,
    "LRP-0": cea.LRP,
    "LRP, gamma 0.25": lambda model: cea.LRP(model, gamma=0.25),
}
NETWORKS = ("resnet50", "vgg16", "mobilenet_v2", "resnet18")


def gradient(model: nn.Module, x: Tensor) -> None:
    leaf = x.clone().requires_grad_()
    torch.autograd.grad(model(leaf)[:, 3].sum(), leaf)


def seconds(run: Callable[[], object]) -> float:
    """Processor time, which other work on the machine lengthens less than the time that passes."""
    start = time.process_time()
    run()
    return time.process_time() - start


def ratios(run: Callable[[], object], baseline: Callable[[], object], n: int = 5) -> list[float]:
    run(), baseline()
    return sorted(seconds(run) / seconds(baseline) for _ in range(n))


def saved(run: Callable[[], object]) -> float:
    """Megabytes that autograd keeps for the backward pass, each storage once; parameters not counted."""
    kept: dict[int, tuple[Tensor, int]] = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = (t, t.untyped_storage().nbytes())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        run()
    return sum(size for t, size in kept.values() if not isinstance(t, nn.Parameter)) / 2**20


def main() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 224, 224)
    print("# What propagation rules cost\n")
    print(
        "Processor time at the input against a plain gradient (forward and backward of the frozen network),\n"
        "random weights, one picture of 224 x 224, both interleaved: median of 5 pairs (range). Below, what is\n"
        "kept for the backward pass. Transformers: benchmarks/lrp_attention.py and benchmarks/libra_grad.py.\n\n"
        "RectGrad's share above the gradient is the selection of each layer's percentile, which weighs more the\n"
        "cheaper the convolutions are.\n"
    )
    print("| | " + " | ".join(NETWORKS) + " |")
    print("|---" * (len(NETWORKS) + 1) + "|")
    models = {name: torchvision.models.get_model(name, weights=None).eval().requires_grad_(False) for name in NETWORKS}
    for name, make in METHODS.items():
        cells = []
        for model in models.values():
            method = make(model)
            found = ratios(lambda: method.attribute(x, target=3), lambda: gradient(model, x))  # noqa: B023
            cells.append(f"{statistics.median(found):.2f} ({found[0]:.2f} - {found[-1]:.2f})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    cells = [f"{saved(lambda: m(x.clone().requires_grad_())):.0f} MB" for m in models.values()]  # noqa: B023
    print(f"| kept by a gradient | {' | '.join(cells)} |")
    cells = []
    for model in models.values():
        method = cea.ExcitationBackprop(model)
        size = saved(lambda of=method: list(of.run_pass(x, places_of(of.plan(to_input=False)), None, [3])))
        cells.append(f"{size:.0f} MB")
    print(f"| kept by excitation backprop and LRP | {' | '.join(cells)} |\n")
    threads, machine, python = torch.get_num_threads(), platform.machine(), platform.python_version()
    print(f"torch {torch.__version__}, {threads} threads, {machine}, Python {python}.")


if __name__ == "__main__":
    main()
