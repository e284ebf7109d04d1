"""Balanced gradients are complete on today's networks, at the input and at a cut: a score is activities and biases."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate._engine.taps import Place


def _torchvision(name, **how):
    return lambda: getattr(torchvision.models, name)(num_classes=7, **how)


def _timm(name, **how):
    return lambda: pytest.importorskip("timm").create_model(name, num_classes=7, **how)


def _small_maxvit():
    stages = {"stem_channels": 16, "partition_size": 2, "block_channels": [16, 32], "block_layers": [1, 1]}
    return torchvision.models.MaxVit(
        (64, 64), head_dim=8, stochastic_depth_prob=0.1, num_classes=7, **stages
    )  # with a tanh in its head


class _Output(nn.Module):
    """A Hugging Face model whose output is one tensor."""

    def __init__(self, model, name):
        super().__init__()
        self.model, self.name = model, name

    def forward(self, pixel_values):
        return getattr(self.model(pixel_values), self.name)


def _hugging_face(model, config, output="logits", **how):
    def make():
        library = pytest.importorskip("transformers")
        size = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 64, "patch_size": 16}
        return _Output(getattr(library, model)(getattr(library, config)(**size, **how)), output)

    return make


# A network for pictures of 64 x 64, and a layer that is a cut through it.
SMALL = {
    "ViT": (
        lambda: torchvision.models.VisionTransformer(64, 16, 2, 3, 48, 96, num_classes=7),
        "encoder.layers.encoder_layer_0",
    ),
    "MaxViT": (_small_maxvit, "blocks.0"),
    "MobileNetV3": (_torchvision("mobilenet_v3_small"), "features.5"),
    "RegNetY": (_torchvision("regnet_y_400mf"), "trunk_output.block1"),
    "DeiT": (_timm("deit_tiny_distilled_patch16_224", img_size=64, depth=2), "blocks.0"),
    "EVA-02": (_timm("eva02_tiny_patch14_224", img_size=64, patch_size=16, depth=2), "blocks.0"),
    "CaiT": (_timm("cait_xxs24_224", img_size=64, depth=2), "blocks.0"),
    "HF ViT": (_hugging_face("ViTForImageClassification", "ViTConfig", num_labels=5), None),
    "HF DINOv2": (_hugging_face("Dinov2ForImageClassification", "Dinov2Config", num_labels=5), None),
    "CLIP": (
        _hugging_face("CLIPVisionModelWithProjection", "CLIPVisionConfig", "image_embeds", projection_dim=5),
        None,
    ),
}
LARGE = {
    "Swin": (_torchvision("swin_t"), "features.3"),
    "Swin-V2": (_torchvision("swin_v2_t"), "features.3"),
    "MLP-Mixer": (_timm("mixer_s32_224", img_size=64), "blocks.3"),
    "ConvNeXt": (_torchvision("convnext_tiny"), "features.3"),
    "EfficientNet": (_torchvision("efficientnet_b0"), "features.4"),
    "EfficientNetV2": (_torchvision("efficientnet_v2_s"), "features.3"),
    "MViT": (_timm("mvitv2_tiny", img_size=64), None),
    "Hiera": (_timm("hiera_tiny_224", img_size=(64, 64), stages=(1, 1, 1, 1)), "blocks.2"),
    "XCiT": (_timm("xcit_nano_12_p16_224", img_size=64), None),
    "Twins": (_timm("twins_svt_small", img_size=64), None),
}
_EVERY = [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]


# Cuts inside of the networks whose attention is within windows, grids and mask units, or pooled.
_MAXVIT = "blocks.0.layers.0.layers"
INSIDE = {
    "MaxViT": ["stem", f"{_MAXVIT}.MBconv", f"{_MAXVIT}.window_attention", f"{_MAXVIT}.grid_attention"],
    "Hiera": ["patch_embed", "blocks.0", "blocks.1", "blocks.2"],
    "MViT": ["stages.0", "stages.2"],
}


def _lively(name):
    """Returns the network in float64: nothing is 0 or 1 throughout, and BatchNorm knows what it meets."""
    torch.manual_seed(0)
    make, layer = (SMALL | LARGE)[name]
    model = make().eval()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for p in model.parameters():
            if (p == p.flatten()[0]).all():
                p += 0.2 * torch.randn_like(p)
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        if norms:
            model(torch.randn(4, 3, 64, 64))
    return model.double().eval(), torch.randn(2, 3, 64, 64, dtype=torch.float64), layer


@pytest.mark.parametrize("name", _EVERY)
def test_activities_and_biases_are_the_score(name):
    model, images, layer = _lively(name)
    with torch.no_grad():
        scores = model(images)[:, 1]
    method = cea.LibraGrad(cea.ActivityAttribution(model, [None] if layer is None else [None, layer]))
    for delta in method.compute_convergence_delta(images, target=1):
        assert (delta / scores).abs().max() < 1e-9
    share = method.attribute(images, target=1)[0].flatten(1).sum(1) / scores
    assert share.abs().min() > 1e-6  # the input has a part in it: the law is not of biases alone
    (balanced,), (plain,) = (
        m.run_pass(images, [Place(None, "input")], None, [1]) for m in (method, method.attribution_method)
    )
    assert torch.equal(balanced.scores, plain.scores)


@pytest.mark.slow
@pytest.mark.parametrize("name", INSIDE)
def test_every_cut_inside(name):
    model, images, _ = _lively(name)
    scores = model(images)[:, 1].detach()
    for delta in cea.LibraGrad(cea.ActivityAttribution(model, INSIDE[name])).compute_convergence_delta(
        images, target=1
    ):
        assert (delta / scores).abs().max() < 1e-9


@pytest.mark.parametrize("name", ["ViT", "RegNetY", "EVA-02"])
def test_single_precision(name):
    model, images, _ = _lively(name)
    model, images = model.float(), images.float()
    delta = cea.LibraGrad(cea.ActivityAttribution(model, None)).compute_convergence_delta(images, target=1)
    assert delta.abs().max() / model(images)[:, 1].abs().max() < 1e-4  # a score near 0 is all rounding
