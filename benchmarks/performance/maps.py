"""Maps against the floor and against Captum."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version

import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import captum_extract_aggregate as cea
from benchmarks.performance.floor import NETWORKS, forward, gradients, images, network, stages
from benchmarks.performance.peers import saved_bytes
from benchmarks.performance.timing import Row, one_thread, ratios, row
from captum_extract_aggregate._common.tensors import min_max
from captum_extract_aggregate.attr.extract_aggregate.aggregate import AGGREGATES
from captum_extract_aggregate.attr.extract_aggregate.extract import Pair, virtual_extract

METHODS: dict[str, Callable[[nn.Module, list[str]], cea.NormGrad]] = {
    "NormGrad": cea.NormGrad,
    "conv3x3, filter_norm": lambda m, layers: cea.ExtractAggregate(
        m, layers, extract="conv3x3", aggregate="filter_norm"
    ),
    "selective NormGrad": cea.SelectiveNormGrad,
    "linear approximation": cea.LinearApproximation,
    "GradCAM++": cea.GradCAMPlusPlus,
    "GradCAM_Pos": cea.GradCAMPos,
    "GradMid": cea.GradMid,
    "activity": cea.ActivityAttribution,
}
AT_BATCH_8 = ("NormGrad", "GradCAM++")
EXTRACTS = ("bias", "scaling", "conv1x1", "conv3x3", "depthwise3x3")


def floors(names: tuple[str, ...] = NETWORKS, batches: tuple[int, ...] = (1, 8)) -> Iterator[Row]:
    """Every family, at one layer and at four, against the bare passes."""
    for name in names:
        model = network(name)
        for batch in batches:
            x = images(batch)
            for count in (1, 4):
                layers = stages(model, count)
                floor = gradients(model, x, layers)
                for label, make in METHODS.items():
                    if batch == 8 and label not in AT_BATCH_8:
                        continue
                    method = make(model, layers)
                    found = ratios(lambda: method.attribute(x, target=3), floor)  # noqa: B023
                    yield row("floor", f"{label}, {name}, batch {batch}, {count} layer(s)", found, limit=1.05)


def sessions() -> Iterator[Row]:
    """One image after the other within `cea.prepared(model)`, four layers, against the floor; processor time of one
    thread."""
    with one_thread():
        for name, limit in (("mobilenet_v2", 1.03), ("resnet18", 1.03), ("efficientnet_b0", 1.03), ("resnet50", 1.02)):
            model, x = network(name), images(1)
            layers = stages(model, 4)
            floor = gradients(copy.deepcopy(model), x, layers)
            for label, make in (("NormGrad", cea.NormGrad), ("LayerCAM", cea.LayerCAM)):
                method = make(model, layers)
                alone = ratios(lambda: method.attribute(x, target=3), floor, 21, time.process_time)  # noqa: B023
                with cea.prepared(model):
                    found = ratios(lambda: method.attribute(x, target=3), floor, 21, time.process_time)  # noqa: B023
                yield row("sessions", f"{label}, {name}, in a session", found, limit=limit)
                yield row("sessions", f"{label}, {name}, without", alone)


def whole_network(names: tuple[str, ...] = NETWORKS[:3]) -> Iterator[Row]:
    """Maps of the input's size from many layers, against the backward to the earliest of them (FullGrad: the input)."""
    for name in names:
        model, x = network(name), images(1)
        layers = list(cea.default_layers(model))
        aggregated, full = cea.AggregatedActivity(model), cea.FullGrad(model)
        found = ratios(lambda: aggregated.attribute(x, target=3), gradients(model, x, layers))  # noqa: B023
        yield row("floor", f"aggregated activity, {name}, batch 1, {len(layers)} layers", found, limit=1.05)
        places = [None, *cea.bias_layers(model)]
        found = ratios(lambda: full.attribute(x, target=3), gradients(model, x, places))  # noqa: B023
        yield row("floor", f"FullGrad, {name}, batch 1, {len(places)} places", found, limit=1.05)


def captum() -> Iterator[Row]:
    """Four layers at once against Captum's calls for each, at equal output."""
    for name in NETWORKS[:3]:
        model, x = network(name), images(1)
        layers = stages(model, 4)
        ours = cea.GradCAM(model, layers)
        theirs = [LayerGradCam(model, model.get_submodule(layer)) for layer in layers]
        for a, b in zip(ours.attribute(x, target=3), theirs):
            torch.testing.assert_close(a, b.attribute(x, target=3, relu_attributions=True), rtol=1e-3, atol=1e-6)

        def run(theirs: list[LayerGradCam] = theirs, x: Tensor = x) -> None:
            for method in theirs:
                method.attribute(x, target=3, relu_attributions=True)

        found = ratios(run, lambda: ours.attribute(x, target=3))  # noqa: B023
        yield row("Captum over ours", f"GradCAM, {name}, 4 layers", found, limit=2.5, at_least=True)


def memory() -> Iterator[Row]:
    """Bytes saved for the backward, last stage of a ResNet-50, against Captum."""
    model, x = network("resnet50"), images(4)
    ours = saved_bytes(lambda: cea.NormGrad(model, "layer4").attribute(x, target=3))
    theirs = saved_bytes(lambda: LayerGradCam(model, model.layer4).attribute(x, target=3))
    share = 100 * ours / theirs
    note = f"{ours / 1e6:.1f} of {theirs / 1e6:.0f} MB"
    yield Row(
        "bytes saved", "resnet50, last stage, batch 4, of Captum's", share, share, share, 1, 2, unit="%", note=note
    )


def grid() -> Iterator[Row]:
    """All extracts by all aggregates at four layers, against one NormGrad there."""
    for name in ("resnet50", "vgg16"):
        model, x = network(name), images(1)
        layers = stages(model, 4)
        cells = {
            f"{e}:{a}": cea.ExtractAggregate(model, layers, extract=e, aggregate=a)
            for e in EXTRACTS
            for a in AGGREGATES
        }
        one = cea.NormGrad(model, layers)
        found = ratios(lambda: cea.attribute_together(cells, x, 3), lambda: one.attribute(x, target=3))  # noqa: B023
        yield row("whole grid", f"{len(cells)} cells over one NormGrad, {name}, 4 layers", found, limit=1.3)


def targets() -> Iterator[Row]:
    """Several targets of one image against one forward and as many backwards."""
    for name in ("resnet50", "vit_b_16"):
        model, x = network(name), images(1)
        layers = stages(model, 4)
        for count in (1, 2, 5, 20) if name == "resnet50" else (1, 5):
            method, wanted = cea.NormGrad(model, layers), list(range(3, 3 + count))
            run = lambda: method.attribute_per_target(x, wanted)  # noqa: B023, E731
            found = ratios(run, gradients(model, x, layers, count))
            yield row("targets", f"NormGrad, {name}, 4 layers, {count} target(s)", found, limit=1.05)


def batched_backward() -> Iterator[Row]:
    """For the eye: one backward of all targets by vmap, against one after the other. Not used: seldom faster here."""
    for name in ("resnet50", "mobilenet_v2", "vit_b_16"):
        model = network(name)
        layers = stages(model, 4)
        for batch in (1, 4):
            x = images(batch)
            found = ratios(gradients(model, x, layers, 5, batched=True), gradients(model, x, layers, 5), pairs=7)
            yield row("targets", f"5 targets at once over one by one, {name}, batch {batch}", found)


def competition() -> Iterator[Row]:
    """Five classes that compete at four layers of a ResNet-50, against one forward and five backwards.

    And LayerCAM of one class, and of as many, at these layers: grad-cam and torchcam over ours at equal output (their
    scaling to [0, 1] is in it). They run the network for each class. torchcam's pass is as lean as ours (grad-cam's
    differentiates parameters too), so that of it the forwards alone are saved: (5 F + 5 B) / (F + 5 B), 5/3 where a
    backward costs what a forward does.
    """
    from pytorch_grad_cam import LayerCAM as PeerLayerCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from torchcam.methods import LayerCAM as TorchLayerCAM

    model, x = network("resnet50"), images(1)
    hooked = copy.deepcopy(model)  # by the other libraries
    layers, classes = stages(model, 4), [3, 4, 5, 6, 7]
    for plain in (cea.NormGrad(model, layers), cea.LinearApproximation(model, layers)):
        competing = cea.ClassCompetition(plain, classes=classes)
        found = ratios(lambda: competing.attribute(x, target=3), gradients(model, x, layers, 5))  # noqa: B023
        yield row("competition", f"{plain.get_name()}, resnet50, 5 classes, 4 layers", found, limit=1.1)

    ours = cea.LayerCAM(model, layers)
    modules = [hooked.get_submodule(layer) for layer in layers]
    size = x.shape[2:]
    of_each = [[min_max(m[:, t]) for m in ours.attribute_per_target(x, classes)] for t in range(len(classes))]

    resizing = PeerLayerCAM(hooked, modules)

    def grad_cam(c: int) -> list[object]:
        targets = [ClassifierOutputTarget(c)]
        resizing.outputs = outputs = resizing.activations_and_grads(x)
        hooked.zero_grad()
        sum(t(o) for t, o in zip(targets, outputs)).backward()  # type: ignore[union-attr]
        return list(resizing.compute_cam_per_layer(x, targets, False))

    for got, m in zip(grad_cam(3), of_each[0]):
        whole = torch.nn.functional.interpolate(m, size, mode="bilinear")
        torch.testing.assert_close(torch.as_tensor(got)[:, 0][:, None], whole, rtol=0, atol=3e-2)  # type: ignore[call-overload]
    for count in (1, 5):
        wanted = classes[:count]
        found = ratios(lambda: [grad_cam(c) for c in wanted], lambda: ours.attribute_per_target(x, wanted))  # noqa: B023
        case = f"LayerCAM, resnet50, 4 layers, {count} class(es)"
        limit = 2.5 if count > 1 else None
        yield row("competition", f"grad-cam {version('grad-cam')} over ours, {case}", found, limit=limit, at_least=True)
    resizing.activations_and_grads.release()
    hooked.zero_grad(set_to_none=True)

    with TorchLayerCAM(hooked, layers) as extractor:

        def torchcam(c: int) -> list[Tensor]:
            return extractor(c, hooked(x))  # type: ignore[no-any-return]

        for got, m in zip(torchcam(3), of_each[0]):
            torch.testing.assert_close(got[None], m, rtol=1e-3, atol=1e-3)
        for count in (1, 5):
            wanted = classes[:count]
            found = ratios(lambda: [torchcam(c) for c in wanted], lambda: ours.attribute_per_target(x, wanted))  # noqa: B023
            case = f"LayerCAM, resnet50, 4 layers, {count} class(es)"
            limit = 2.5 if count > 1 else None
            yield row("competition", f"torchcam over ours, {case}", found, limit=limit, at_least=True)


class _Largest(TorchDispatchMode):
    """The largest tensor that any operation gave."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for t in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(t, Tensor):
                self.numbers = max(self.numbers, t.numel())
        return result


def closed_forms() -> Iterator[Row]:
    """filter_norm at 2,048 channels against the same with every contribution multiplied out."""
    generator = torch.Generator().manual_seed(0)
    x, g = (torch.randn(1, 2048, 7, 7, generator=generator) for _ in range(2))
    for extract in ("conv1x1", "conv3x3"):
        summand = virtual_extract(extract)(Pair(x, g))

        def multiplied_out() -> Tensor:
            return torch.cat([rows.clamp(min=0).flatten(1).norm(dim=1) for rows in summand.rows(2**22)])  # noqa: B023

        def closed() -> Tensor:
            return AGGREGATES["filter_norm"](virtual_extract(extract)(Pair(x, g)))  # noqa: B023

        torch.testing.assert_close(closed().flatten(), multiplied_out(), rtol=5e-3, atol=1e-3)
        found = ratios(multiplied_out, closed, pairs=3 if extract == "conv3x3" else 7)
        with _Largest() as largest:
            closed()
        note = f"largest tensor: {largest.numbers / 49:.0f} numbers a position"
        yield row(
            "closed form",
            f"{extract}:filter_norm, multiplied out over ours",
            found,
            limit=1000,
            at_least=True,
            note=note,
        )


def forwards() -> Iterator[Row]:
    """For the eye: what the floor of a map is in forwards."""
    for name in NETWORKS:
        model, x = network(name), images(1)
        found = ratios(gradients(model, x, stages(model, 4)), forward(model, x))
        yield row("the floor itself", f"forward and backward to 4 layers over the forward, {name}", found)
