"""The least that a map can cost: the bare forward, and the bare backward to the earliest layer that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torchvision
from torch import Tensor, nn

import captum_extract_aggregate as cea

NETWORKS = ("resnet50", "vgg16", "mobilenet_v2", "vit_b_16")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    for module in model.modules():  # torchvision's ViT starts with a head of zeros
        if isinstance(module, nn.Linear) and not bool(module.weight.any()):
            nn.init.normal_(module.weight, std=0.02)
    return model.to(DEVICE)


def images(n: int, size: int = 224) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1)).to(DEVICE)


def stages(model: nn.Module, count: int) -> list[str]:
    """The last `count` of the default layers."""
    return list(cea.default_layers(model))[-count:]


def forward(model: nn.Module, x: Tensor) -> Callable[[], object]:
    def run() -> Tensor:
        with torch.no_grad():
            return model(x)

    return run


def gradients(
    model: nn.Module, x: Tensor, layers: Sequence[str | None], targets: int = 1, batched: bool = False
) -> Callable[[], object]:
    """The forward, and one backward for each target, to the earliest of the layers, whose later ones are passed by.

    Nothing is recorded below, no parameter is differentiated, no map is made. None is the network's input. `batched`:
    one backward for all targets, by PyTorch's vmap.
    """
    frozen = [p for p in model.parameters() if p.requires_grad]
    modules = [model.get_submodule(name) if name is not None else None for name in layers]

    def run() -> None:
        kept: list[Tensor] = []

        def tap(_module: nn.Module, _args: object, output: Tensor) -> None:
            if not output.requires_grad:
                output.requires_grad_()
            kept.append(output)

        for p in frozen:
            p.requires_grad_(False)
        handles = [m.register_forward_hook(tap) for m in modules if m is not None]
        try:
            leaf = x.clone().requires_grad_() if None in layers else x
            scores = model(leaf)
            wanted = [leaf, *kept] if None in layers else kept
            if batched:
                seeds = torch.eye(scores.shape[1], device=x.device)[3 : 3 + targets]
                seeds = seeds.unsqueeze(1).expand(targets, *scores.shape)
                torch.autograd.grad(scores, wanted, seeds, is_grads_batched=True)
                return
            for i in range(targets):
                torch.autograd.grad(scores[:, 3 + i].sum(), wanted, retain_graph=i + 1 < targets)
        finally:
            for handle in handles:
                handle.remove()
            for p in frozen:
                p.requires_grad_()

    return run
