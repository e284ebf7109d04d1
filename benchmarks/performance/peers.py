"""Other libraries over ours at equal output, each on a copy of the model: their hooks may stay there."""

from __future__ import annotations

import copy
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from captum.attr import GuidedBackprop, LayerGradCam, LayerGradientXActivation
from torch import Tensor, nn

import captum_extract_aggregate as cea
from benchmarks.performance.floor import images, network, stages
from benchmarks.performance.timing import Row, one_thread, ratios, row
from captum_extract_aggregate import metrics
from captum_extract_aggregate._common.tensors import is_constant, min_max

Run = Callable[[], Any]
Pair = tuple[Run, Run, str]  # ours, theirs, and what both make
Peer = Callable[[nn.Module, nn.Module, Tensor, ExitStack], Pair]  # of a model, its copy, images


def saved_bytes(run: Run, model: nn.Module | None = None) -> int:
    """What autograd keeps for the backward pass, each storage once; of several passes of a model the most."""
    passes: list[dict[int, int]] = [{}]
    alive: list[Tensor] = []

    def pack(t: Tensor) -> Tensor:
        passes[-1][t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        alive.append(t.detach())
        return t

    handle = model and model.register_forward_pre_hook(lambda *_: passes.append({}))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        run()
    if handle is not None:
        handle.remove()
    return max(sum(kept.values()) for kept in passes)


def forwards_of(model: nn.Module, run: Run) -> int:
    """How many examples a call runs through the model."""
    seen: list[int] = []
    handle = model.register_forward_pre_hook(lambda _m, args: seen.append(len(args[0])))
    run()
    handle.remove()
    return sum(seen)


def check_same(ours: Tensor, theirs: Tensor, least: float = 0.999) -> None:
    """Raises an error for maps that differ by more than offset, scale and what scaling by max + eps distorts."""
    if bool(is_constant(ours).all() and is_constant(theirs).all()):  # as of a single position
        return
    found = float(torch.corrcoef(torch.stack([ours.detach().flatten(), theirs.detach().flatten()]))[0, 1])
    if not found >= least:
        raise ValueError(f"the maps correlate with {found:.4f}; expected at least {least}")


def _of_captum(ours: Any, theirs: list[Any], x: Tensor, what: str, **given: Any) -> Pair:
    def run() -> list[Tensor]:
        return [method.attribute(x, target=3, **given).sum(1, keepdim=True) for method in theirs]

    for a, b in zip(ours.attribute(x, target=3), run()):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-5)
    return partial(ours.attribute, x, target=3), run, what


def captum(model: nn.Module, other: nn.Module, x: Tensor, held: ExitStack) -> Pair:
    places = stages(model, 4)
    theirs = [LayerGradCam(other, other.get_submodule(place)) for place in places]
    return _of_captum(cea.GradCAM(model, places), theirs, x, "GradCAM, 4 layers", relu_attributions=True)


def captum_products(model: nn.Module, other: nn.Module, x: Tensor, held: ExitStack) -> Pair:
    places = stages(model, 4)
    theirs = [LayerGradientXActivation(other, other.get_submodule(place)) for place in places]
    return _of_captum(cea.LinearApproximation(model, places), theirs, x, "gradient x activation, 4 layers")


def captum_guided(model: nn.Module, other: nn.Module, x: Tensor, held: ExitStack) -> Pair:
    ours, theirs = cea.GuidedBackprop(model), GuidedBackprop(other)
    torch.testing.assert_close(ours.attribute(x, target=3), theirs.attribute(x, target=3), rtol=1e-3, atol=1e-6)
    return partial(ours.attribute, x, target=3), partial(theirs.attribute, x, target=3), "GuidedBackprop"


def torchcam(model: nn.Module, other: nn.Module, x: Tensor, held: ExitStack) -> Pair:
    from torchcam.methods import LayerCAM

    places = stages(model, 4)
    ours, extractor = cea.LayerCAM(model, places), held.enter_context(LayerCAM(other, places))

    def run() -> list[Tensor]:
        return extractor(3, other(x))  # type: ignore[no-any-return]

    for a, b in zip(ours.attribute(x, target=3), run()):
        torch.testing.assert_close(min_max(b[:, None]), min_max(a), rtol=1e-2, atol=1e-2)  # theirs by max + eps
    return partial(ours.attribute, x, target=3), run, "LayerCAM, 4 layers"


def torchcam_prepared(model: nn.Module, other: nn.Module, x: Tensor, held: ExitStack) -> Pair:
    """Both prepared once, as torchcam's extractor is."""
    held.enter_context(cea.prepared(model))
    ours, theirs, what = torchcam(model, other, x, held)
    return ours, theirs, f"{what}, ours in a session"


def grad_cam(model: nn.Module, other: nn.Module, x: Tensor, held: ExitStack) -> Pair:
    from pytorch_grad_cam import LayerCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    places = stages(model, 4)
    ours, theirs = cea.LayerCAM(model, places), LayerCAM(other, [other.get_submodule(place) for place in places])
    held.callback(theirs.activations_and_grads.release)
    wanted = [ClassifierOutputTarget(3)] * len(x)

    def run() -> Any:
        return theirs(x, wanted)

    run()
    for a, b in zip(ours.attribute(x, target=3), theirs.compute_cam_per_layer(x, wanted, False)):
        check_same(nn.functional.interpolate(a, x.shape[2:], mode="bilinear"), torch.as_tensor(b))
    return partial(ours.attribute, x, target=3), run, "LayerCAM, 4 layers"


def zennit(model: nn.Module, other: nn.Module, x: Tensor, held: ExitStack) -> Pair:
    from zennit import composites
    from zennit.attribution import Gradient
    from zennit.torchvision import VGGCanonizer

    ours = cea.ExcitationBackprop(model)
    composite = composites.ExcitationBackprop(stabilizer=1e-30, zero_params=["bias"], canonizers=[VGGCanonizer()])
    attributor = held.enter_context(Gradient(other, composite))
    seed = torch.zeros_like(model(x))
    seed[:, 3] = 1
    return partial(ours.attribute, x, target=3), lambda: attributor(x, seed), "excitation backprop"


def lxt(model: nn.Module, other: nn.Module, x: Tensor, held: ExitStack) -> Pair:
    """CP-LRP of a ViT: the rules of lxt's `cp_LRP`, on the copy's modules alone (it gives them to whole types)."""
    absent: Any = types.SimpleNamespace(get_default_map=None)
    sys.modules.setdefault("lxt.efficient.models", absent)  # of language, which want another transformers
    from lxt.efficient import patches

    replacements = {
        nn.GELU: patches.non_linear_forward,
        nn.LayerNorm: patches.layer_norm_forward,
        nn.MultiheadAttention: patches.cp_multi_head_attention_forward,
    }
    for module in other.modules():
        for kind, function in replacements.items():
            if isinstance(module, kind):
                module.original_forward = module.forward
                module.forward = types.MethodType(function, module)
    other.requires_grad_(False)  # as its examples do
    ours = cea.LRP(model, attention="cp")

    def run() -> Tensor:
        leaf = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(other(leaf)[:, 3].sum(), leaf)
        return g * leaf.detach()

    check_same(ours.attribute(x, target=3).sum(1), run().sum(1))
    return partial(ours.attribute, x, target=3), run, "CP-LRP"


PEERS: dict[str, Peer] = {
    "torchcam": torchcam,
    "torchcam, session": torchcam_prepared,
    "captum": captum,
    "captum, products": captum_products,
    "captum, guided": captum_guided,
    "grad-cam": grad_cam,
    "zennit": zennit,
    "lxt": lxt,
}
# Zennit merges no BatchNorm, and Captum's guided backpropagation leaves a MobileNetV2's ReLU6 as they are.
_NETWORKS = {"zennit": ("vgg16",), "lxt": ("vit_b_16",), "captum, guided": ("resnet50", "vgg16")}
_TINY = {"rtol": 1e-4, "atol": 1e-6}


def _quantus_flipping() -> tuple[nn.Module, nn.Module, Pair]:
    """Curves of one-channel pictures, whose pixels are what Quantus removes; the untouched picture is its own step."""
    import quantus

    model = nn.Sequential(nn.Conv2d(1, 3, 1), network("resnet18")).eval()
    other, x = copy.deepcopy(model), torch.rand(8, 1, 112, 112, generator=torch.Generator().manual_seed(2))
    maps, y, step = x.flip(0), np.zeros(8, dtype=int), 112 * 112 // 16
    measure = quantus.PixelFlipping(
        features_in_step=step, perturb_baseline=0.25, abs=False, normalise=False, disable_warnings=True
    )

    def theirs() -> Any:
        return measure(other, x.numpy().copy(), y, a_batch=maps.numpy().copy(), softmax=True)

    def ours() -> Any:
        return metrics.perturbation_curve(model, x, maps, y, step=step, baseline=0.25)

    np.testing.assert_allclose(ours().scores[:, 1:].numpy(), theirs(), **_TINY)
    return model, other, (ours, theirs, "pixel flipping, 16 steps, resnet18, 8 pictures of 112 x 112")


def peers() -> Iterator[Row]:
    """Other libraries over ours at equal output, each on a copy of the model; processor time of one thread.

    *Forwards* are the examples that run through the model, *kept* is what autograd keeps for a backward: theirs, then
    ours. Libraries that scale their maps or resize them do so here, too.
    """
    for name, make in PEERS.items():
        library = name.partition(",")[0]
        for of in _NETWORKS.get(name, ("resnet50", "mobilenet_v2")):
            model, x = network(of), images(1)
            other = copy.deepcopy(model)
            with ExitStack() as held:
                yield _row(library, of, model, other, make(model, other, x, held))
    yield _row("quantus", "", *_quantus_flipping())


def _row(library: str, name: str, model: nn.Module, other: nn.Module, pair: Pair) -> Row:
    ours, theirs, what = pair
    with one_thread():
        found = ratios(theirs, ours, 8, time.process_time)
    counts = forwards_of(other, theirs), forwards_of(model, ours)
    kept = saved_bytes(theirs, other) / 1e6, saved_bytes(ours, model) / 1e6
    case = ", ".join(filter(None, (f"{library} {version(library)}", what, name)))
    note = f"forwards {counts[0]} to {counts[1]}; kept {kept[0]:.0f} to {kept[1]:.0f} MB"
    return row("peers", case, found, note=note)
