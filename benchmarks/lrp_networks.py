"""Which classifiers LRP and excitation backprop explain, what arrives at the input, and what balanced gradients miss.

python benchmarks/lrp_networks.py torchvision|timm > table.md
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator

import torch
import torchvision
from torch import nn

import captum_extract_aggregate as cea

METHODS: dict[str, Callable[[nn.Module], cea.LRP | cea.ExcitationBackprop]] = {
    "LRP-0": cea.LRP,
    "LRP, gamma 0.25": lambda net: cea.LRP(net, gamma=0.25),
    "LRP, cp": lambda net: cea.LRP(net, attention="cp"),
    "excitation, spread": lambda net: cea.ExcitationBackprop(net, lost="spread"),
}
# Small pictures, where a network allows them.
SIZES = {"inception_v3": 96, "maxvit_t": 224, "vit_b_32": 128, "vit_l_32": 128, "vit_h_14": 56}
TIMM = """
    beit_base_patch16_224 beitv2_base_patch16_224 cait_xxs24_224 coat_tiny coatnet_nano_rw_224 convit_tiny
    convmixer_768_32 convnext_atto convnextv2_atto crossvit_9_240 cs3darknet_s davit_tiny deit_tiny_patch16_224
    deit3_small_patch16_224 densenet121 dla34 dm_nfnet_f0 dpn68 edgenext_xx_small efficientformer_l1
    efficientformerv2_s0 efficientnet_lite0 efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224 fastvit_t8
    focalnet_tiny_srf fbnetc_100 gcvit_xxtiny gernet_s ghostnet_100 ghostnetv2_100 gmixer_24_224 gmlp_s16_224
    halonet26t hardcorenas_a hgnet_tiny hiera_tiny_224 hrnet_w18_small inception_next_atto inception_v4
    lambda_resnet26t lcnet_050 legacy_senet154 levit_128s maxvit_rmlp_pico_rw_256 mambaout_femto mixer_s16_224
    mixnet_s mobilenetv3_small_050 mobilenetv4_conv_small mobileone_s0 mobilevit_xxs mobilevitv2_050 mvitv2_tiny
    nest_tiny nextvit_small pit_ti_224 poolformer_s12 pvt_v2_b0 regnety_002 repvgg_a0 repvit_m0_9 res2net50_26w_4s
    resmlp_12_224 resnest14d rexnet_100 selecsls42 seresnet18 skresnet18 starnet_s1 swin_tiny_patch4_window7_224
    swinv2_tiny_window8_256 tiny_vit_5m_224 tinynet_e tnt_s_patch16_224 tresnet_m twins_pcpvt_small vgg11
    visformer_tiny vit_tiny_patch16_224 vitamin_small_224 volo_d1_224 vovnet39a xception41 xcit_nano_12_p16_224
"""


def networks(library: str) -> Iterator[tuple[str, nn.Module, int]]:
    """Random networks, and a size of picture that each takes."""
    if library == "timm":
        import timm

        for name in filter(timm.is_model, TIMM.split()):
            torch.manual_seed(0)
            net = timm.create_model(name, num_classes=10)
            yield name, net, smallest(net.eval(), (64, net.pretrained_cfg["input_size"][-1]))
        return
    for name in torchvision.models.list_models(module=torchvision.models):
        torch.manual_seed(0)
        size = SIZES.get(name, 64)
        extra = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
        extra |= {"image_size": size} if name.startswith("vit") else {}
        yield name, torchvision.models.get_model(name, weights=None, **extra), size


def smallest(net: nn.Module, sizes: tuple[int, ...]) -> int:
    """Returns the first size of picture that a network takes."""
    for size in sizes:
        try:
            net(torch.zeros(1, 3, size, size))
        except (AssertionError, RuntimeError, ValueError):
            continue
        return size
    return sizes[-1]


def calibrated(net: nn.Module, size: int) -> nn.Module:
    """Gives classifiers of zeros weights, and BatchNorms the statistics of four pictures: else signals die out."""
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for module in net.eval().requires_grad_(False).modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.1)
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    if norms:
        net(torch.randn(4, 3, size, size))
    return net.eval()


def refused(error: Exception) -> str:
    """Returns the first line of an error, short: the function that there is no rule for."""
    line = str(error).split(", called")[0].split(" (")[0].split("\n")[0]
    return line.split("has no rule for ")[-1].replace("of two tensors that depend on the input", "of two signals")


def outcome(method: Callable[[nn.Module], cea.LRP | cea.ExcitationBackprop], net: nn.Module, x: torch.Tensor) -> str:
    try:
        arrived = float(method(net).attribute(x, target=1).sum())
    except (ValueError, RuntimeError) as error:  # ours, and that of a network for another size of picture
        return refused(error)
    return f"{arrived:.3g}" if math.isfinite(arrived) else "not finite"


def missing(net: nn.Module, x: torch.Tensor) -> str:
    """Returns how far input times balanced gradient and biases are from the score, relative to it."""
    try:
        delta = cea.LibraGrad(cea.ActivityAttribution(net, None)).compute_convergence_delta(x, target=1)
    except (ValueError, RuntimeError) as error:
        return refused(error)
    return f"{abs(float(delta / net(x)[0, 1])):.0e}"


def main() -> None:
    columns = [*METHODS, "balanced gradient: relative gap"]
    print("| network | logit | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 2) + "|")
    for name, net, size in networks(sys.argv[1]):
        calibrated(net, size)
        x = torch.randn(1, 3, size, size)
        sums = [*(outcome(method, net, x) for method in METHODS.values()), missing(net, x)]
        print(f"| {name} | {float(net(x)[0, 1]):.3g} | {' | '.join(sums)} |", flush=True)


if __name__ == "__main__":
    main()
