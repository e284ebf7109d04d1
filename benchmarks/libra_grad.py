"""What balanced gradients cost beside plain ones, and whether they add up, architecture by architecture.

    python benchmarks/libra_grad.py cost            # ViT-B/16, pairs of passes that take turns
    python benchmarks/libra_grad.py completeness    # the relative gap of input and biases to the score

Networks have random weights; parameters that are all zero (heads, layer scales, tokens) are filled.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torchvision.models as vision
from torch import Tensor, nn

import captum_extract_aggregate as cea

Make = Callable[[], nn.Module]


class _Of(nn.Module):
    """A tensor of a Hugging Face model's output."""

    def __init__(self, model: nn.Module, output: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.model(x))


def _timm(name: str) -> Make:
    def make() -> nn.Module:
        import timm

        return timm.create_model(name)

    return make


def _vit() -> nn.Module:
    import transformers

    return _Of(transformers.ViTForImageClassification(transformers.ViTConfig()), lambda o: o.logits)


def _dinov2() -> nn.Module:
    import transformers

    config = transformers.Dinov2Config(image_size=224, patch_size=14)
    return _Of(transformers.Dinov2ForImageClassification(config), lambda o: o.logits)


def _clip() -> nn.Module:
    import transformers

    model = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig())
    texts = torch.randn(512, 3)

    def similarity(output: Any) -> Tensor:
        image = output.image_embeds
        return 100 * (image / image.norm(dim=-1, keepdim=True)) @ texts.to(image)

    return _Of(model, similarity)


NETWORKS: dict[str, Make] = {
    "ResNet-18": vision.resnet18,
    "ViT-B/16": vision.vit_b_16,
    "Swin-T": vision.swin_t,
    "Swin-V2-T": vision.swin_v2_t,
    "MaxViT-T": vision.maxvit_t,
    "MLP-Mixer": _timm("mixer_s32_224"),
    "ConvNeXt-T": vision.convnext_tiny,
    "EfficientNet-B0": vision.efficientnet_b0,
    "EfficientNet-V2-S": vision.efficientnet_v2_s,
    "MobileNetV3": vision.mobilenet_v3_large,
    "RegNetY": vision.regnet_y_400mf,
    "DeiT-Ti (timm)": _timm("deit_tiny_patch16_224"),
    "EVA-02-Ti (timm)": _timm("eva02_tiny_patch14_224"),
    "CaiT-XXS24 (timm)": _timm("cait_xxs24_224"),
    "Hiera-T (timm)": _timm("hiera_tiny_224"),
    "MViTv2-T (timm)": _timm("mvitv2_tiny"),
    "ViT (Hugging Face)": _vit,
    "DINOv2 (Hugging Face)": _dinov2,
    "CLIP's image tower (Hugging Face)": _clip,
}


def _filled(make: Make) -> nn.Module:
    torch.manual_seed(0)
    model = make().eval()
    for p in model.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.02)
    return model


def _gap(model: nn.Module, x: Tensor) -> float:
    method = cea.LibraGrad(cea.ActivityAttribution(model, None))
    with torch.no_grad():
        score = model(x)[:, 1]
    return float((method.compute_convergence_delta(x, target=1) / score).abs().max())


def completeness(names: list[str]) -> None:
    """Prints a row for each network, as soon as it is known."""
    print("| network | float64 | float32 | plain gradient |\n|---|---|---|---|")
    for name in names or NETWORKS:
        model = _filled(NETWORKS[name])
        x = torch.randn(1, 3, 224, 224)
        single = _gap(model, x)
        model, x = model.double(), x.double()
        plain = cea.ActivityAttribution(model, None).compute_convergence_delta(x, target=1)
        with torch.no_grad():
            plain = float((plain / model(x)[:, 1]).abs().max())
        print(f"| {name} | {_gap(model, x):.1e} | {single:.1e} | {plain:.1e} |", flush=True)


def cost(pairs: int) -> None:
    """Prints how long the balanced pass takes beside the plain one."""
    model = _filled(vision.vit_b_16)
    x = torch.randn(1, 3, 224, 224)
    plain = cea.LinearApproximation(model, None)
    balanced = cea.LibraGrad(plain)
    ratios = []
    for i in range(pairs + 1):
        seconds = []
        for method in (plain, balanced):
            start = time.perf_counter()
            method.attribute(x, target=1)
            seconds.append(time.perf_counter() - start)
        if i:  # the first pair warms up
            ratios.append(seconds[1] / seconds[0])
    print(
        f"ViT-B/16, {pairs} pairs: {statistics.median(ratios):.2f} x the plain pass "
        f"({min(ratios):.2f} to {max(ratios):.2f}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "completeness"))
    parser.add_argument("--networks", nargs="*", default=[], choices=list(NETWORKS))
    parser.add_argument("--pairs", type=int, default=7)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    completeness(arguments.networks) if arguments.what == "completeness" else cost(arguments.pairs)
