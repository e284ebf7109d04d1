"""Layers by name, names of layers, and the layers a map is usually taken at."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captum_extract_aggregate.layout import Surroundings, to_channels_first
from captum_extract_aggregate.messages import unknown_name

Layer = nn.Module | str | None


def model_of(forward_func: Callable[..., Any]) -> nn.Module | None:
    """The module behind a forward function, if it is one: a module, a method of one, or a partial of those."""
    if isinstance(forward_func, functools.partial):
        return model_of(forward_func.func)
    owner = getattr(forward_func, "__self__", forward_func)
    if not isinstance(owner, nn.Module):
        return None
    original = getattr(owner, "_orig_mod", None)  # torch.compile
    return owner if original is None else original


def describe(layer: nn.Module | None, models: Sequence[nn.Module]) -> str:
    """How errors call a layer: its dotted name where a model knows it, and its type."""
    if layer is None:
        return "the input"
    for model in models:
        for name, module in model.named_modules():
            if module is layer:
                return repr(name) if name else f"the whole {type(layer).__name__}"
    return type(layer).__name__


def find_layer(layer: Layer, forward_func: Callable[..., Any]) -> nn.Module | None:
    """A module as it is; a dotted name looked up in the model; None (the input) stays None."""
    if layer is None or isinstance(layer, nn.Module):
        original = getattr(layer, "_orig_mod", None)
        return layer if original is None else original
    if not isinstance(layer, str):
        raise TypeError(
            f"layer is a {type(layer).__name__}; expected a module, a dotted name, a list of those, or None for the "
            "network's input"
        )
    model = model_of(forward_func)
    if model is None:
        raise TypeError(
            f"layer is the name {layer!r}, but forward_func is a {type(forward_func).__name__}, not a model to look "
            "it up in; expected the module itself: layer=model.get_submodule(name)"
        )
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)) and not layer.startswith("module."):
        model = model.module
    modules = dict(model.named_modules())
    if not layer or layer not in modules:
        raise ValueError(
            unknown_name("layer", layer, [name for name in modules if name], "; default_layers(model) lists good ones")
        )
    return modules[layer]


# --- The ends of the resolution stages -------------------------------------------------------------------------------


@dataclass
class _Run:
    """What one module did in the example forward. `octave`: how often the resolution had been halved."""

    started: int
    octave_in: int | None
    octave: int | None = None
    positions: int = 0
    class_token: bool = False


_Trace = dict[nn.Module, _Run]


def default_layers(model: nn.Module, inputs: Tensor | tuple[Tensor, ...] | None = None) -> dict[str, nn.Module]:
    """The layers at which maps are usually taken, by name, in network order.

    For a network that works at several resolutions: the last layer before each halving of the resolution (`layer1`
    ... `layer4` of a ResNet, the last ReLU of each block of a VGG, the stages of a ConvNeXt or Swin). A stem, that is
    a resolution without any block of two or more convolutions in a network that is built of such blocks, is not
    counted, and neither is the classifier. For a network of one resolution (ViT, MLP-Mixer): its repeated blocks; with
    a class token all but the last, after which the other tokens no longer reach the score and every map is zero.

    The resolutions are seen in one forward without gradients, which leaves the model as it was.

    Args:
        model: any image classifier.
        inputs: an example batch; left out, zeros of the size the model declares (`input_size`, `image_size`, timm's
            `pretrained_cfg`), or 224 x 224.

    Example:
        >>> from captum_extract_aggregate import default_layers
        >>> from captum_extract_aggregate.data import load_scene_model
        >>> list(default_layers(load_scene_model("resnet")))
        ['layer1', 'layer2', 'layer3', 'layer4']
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    model = model_of(model) or model
    trace = _trace(model, inputs)
    names = {module: name for name, module in model.named_modules()}
    stages = _stages(_before_classifier(list(_units(model, trace)), trace), trace)
    chosen = _repeated_blocks(model, trace) if len(stages) == 1 else []
    if chosen and trace[chosen[-1]].class_token:
        chosen = chosen[:-1]
    chosen = chosen or [stage[-1] for stage in stages]
    if not chosen:
        raise ValueError(
            f"model ({type(model).__name__}) has no resolution stages that default_layers can tell; expected an image "
            "classifier: name the layers yourself"
        )
    return {names[module]: module for module in chosen}


def _units(module: nn.Module, trace: _Trace) -> Iterator[nn.Module]:
    """The largest modules that stay at one resolution or change it once, in the order in which they ran."""
    run = trace.get(module)
    children = sorted((c for c in module.children() if _first_start(c, trace) is not None), key=_start_key(trace))
    if run is not None and run.octave is not None and run.octave_in is not None and run.octave - run.octave_in <= 1:
        yield module
    elif children:
        for child in children:
            yield from _units(child, trace)
    elif run is not None:
        yield module


def _first_start(module: nn.Module, trace: _Trace) -> int | None:
    starts = [trace[m].started for m in module.modules() if m in trace]
    return min(starts) if starts else None


def _start_key(trace: _Trace) -> Callable[[nn.Module], int]:
    return lambda module: _first_start(module, trace) or 0


def _before_classifier(units: list[nn.Module], trace: _Trace) -> list[nn.Module]:
    """Everything ahead of the last layer with weights, which makes the scores."""
    leaves = [m for m in trace if next(m.children(), None) is None and next(m.parameters(), None) is not None]
    if not leaves:
        return units
    classifier = max(leaves, key=lambda m: trace[m].started)
    for i, unit in enumerate(units):
        if any(module is classifier for module in unit.modules()):
            return units[:i]
    return units


def _stages(units: list[nn.Module], trace: _Trace) -> list[list[nn.Module]]:
    """The units that have positions and do something, grouped by resolution; stems left out."""
    by_octave: dict[int, list[nn.Module]] = {}
    for unit in units:
        run = trace[unit]
        if run.octave is not None and run.positions > 1 and (_weighted(unit) or _is_activation(unit)):
            by_octave.setdefault(run.octave, []).append(unit)
    stages = [stage for stage in by_octave.values() if any(map(_weighted, stage))]
    of_blocks = [stage for stage in stages if any(_weight_layers(unit) >= 2 for unit in stage)]
    return of_blocks or stages


def _weighted(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ == "torch.nn.modules.activation"


def _repeated_blocks(model: nn.Module, trace: _Trace) -> list[nn.Module]:
    """The largest family of alike siblings with positions, such as the encoder blocks of a ViT."""
    families: list[list[nn.Module]] = []
    for parent in model.modules():
        by_type: dict[type, list[nn.Module]] = {}
        for child in parent.children():
            if child in trace and trace[child].octave is not None and _weight_layers(child) >= 2:
                by_type.setdefault(type(child), []).append(child)
        families += by_type.values()
    largest = max(families, key=len, default=[])
    return largest if len(largest) > 1 else []


def _weight_layers(module: nn.Module) -> int:
    return sum(isinstance(m, (nn.modules.conv._ConvNd, nn.Linear)) for m in module.modules())


def _trace(model: nn.Module, inputs: Tensor | tuple[Tensor, ...] | None) -> _Trace:
    """One forward of the model in eval mode, and at which resolution each module ran."""
    trace: _Trace = {}
    last_error: Exception | None = None
    for tensors in [inputs if isinstance(inputs, tuple) else (inputs,)] if inputs is not None else _examples(model):
        image = next((tuple(t.shape[2:]) for t in tensors if t.ndim > 3), ())
        trace.clear()
        try:
            with torch.no_grad(), _evaluating(model), _observed(model, trace, tensors[0].shape[0], image):
                model(*tensors)
            return trace
        except (RuntimeError, ValueError, AssertionError, TypeError) as error:
            last_error = error
    raise ValueError(
        f"default_layers could not run {type(model).__name__} on an example of its own making ({last_error}); expected "
        "inputs=, a batch that the model accepts"
    ) from last_error


def _examples(model: nn.Module) -> Iterator[tuple[Tensor, ...]]:
    """Zeros of the sizes that the model may take, the likeliest first."""
    parameter = next(model.parameters(), torch.zeros(0))
    convolution = next((m for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd)), None)
    channels = 3 if convolution is None else convolution.in_channels
    sizes: list[tuple[int, ...]] = []
    for module in (model, getattr(model, "module", None)):
        config = getattr(module, "pretrained_cfg", None) or {}
        declared = getattr(module, "input_size", None) or (config.get("input_size") if hasattr(config, "get") else None)
        if isinstance(declared, (tuple, list)) and len(declared) > 2:
            sizes.append(tuple(declared))
        side = getattr(module, "image_size", None)
        if isinstance(side, int):
            sizes.append((channels, side, side))
    if isinstance(convolution, nn.Conv3d):
        sizes.append((channels, 16, 112, 112))
    sizes += [(channels, side, side) for side in (224, 299, 32, 28)]
    for size in sizes:
        yield (torch.zeros(1, *size, dtype=parameter.dtype, device=parameter.device),)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode within; every module's own flag back afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextlib.contextmanager
def _observed(model: nn.Module, trace: _Trace, batch: int, image: tuple[int, ...]) -> Iterator[None]:
    def octave_of(value: Any, module: nn.Module | None) -> tuple[int | None, int, bool]:
        value = value[0] if isinstance(value, (tuple, list)) and value else value
        if not isinstance(value, Tensor) or not image:
            return None, 0, False
        try:
            around = Surroundings(module=module, models=(model,), batch=batch, image=image)
            on_grid = to_channels_first(value, "auto", around)(value)
        except ValueError:
            return None, 0, False
        positions = math.prod(on_grid.shape[2:])
        scale = (math.prod(image) / positions) ** (1 / (on_grid.ndim - 2))
        return round(math.log2(scale)), positions, on_grid.numel() < value.numel()

    def started(module: nn.Module, args: Any) -> None:
        if module not in trace:
            trace[module] = _Run(len(trace), octave_of(args, None)[0])

    def ended(module: nn.Module, args: Any, output: Any) -> None:
        run = trace[module]
        run.octave, run.positions, run.class_token = octave_of(output, module)

    with contextlib.ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(started).remove)
            stack.callback(module.register_forward_hook(ended).remove)
        yield
