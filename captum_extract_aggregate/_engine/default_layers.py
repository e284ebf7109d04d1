"""The layers a map is usually taken at: the ends of a network's resolution stages, or its repeated blocks."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.seeding import random_state
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.claims import claim
from captum_extract_aggregate._engine.dimensions import Watch
from captum_extract_aggregate._engine.layers import checked_inputs, model_of
from captum_extract_aggregate._engine.layout import to_channels_first
from captum_extract_aggregate._engine.model_state import (
    function_modes,
    leave_function_modes,
    set_grad_mode,
)
from captum_extract_aggregate._engine.operations import tensors_in
from captum_extract_aggregate._engine.outputs import scores_or_output
from captum_extract_aggregate._engine.parts import Dims
from captum_extract_aggregate._engine.recording import record
from captum_extract_aggregate._engine.surroundings import Facts, Surroundings, image_size
from captum_extract_aggregate._engine.taps import Place


@dataclass
class _Run:
    """Says what one module did in the example forward.

    `octave`: how often the resolution had been halved; `above`: which modules (a bit each, in the order of `started`)
    its output was computed from.
    """

    started: int
    octave_in: int | None
    octave: int | None = None
    positions: int = 0
    tokens: bool = False
    times: int = 1
    above: int = 0


_Trace = dict[nn.Module, _Run]


def default_layers(model: nn.Module, inputs: Tensor | tuple[Tensor, ...] | None = None) -> dict[str, nn.Module]:
    """Returns the layers at which maps are usually taken, by name, in network order.

    For a network that works at several resolutions: the last layer before each halving of the resolution (`layer1`
    ... `layer4` of a ResNet, the last ReLU of each block of a VGG, the stages of a ConvNeXt or Swin). A stem, that is
    a resolution without any block of two or more convolutions in a network that is built of such blocks, is not
    counted, and neither is the classifier. For a network of one resolution (ViT, MLP-Mixer): its repeated blocks. Where
    a class token alone makes the score, what comes after the last exchange between tokens is left out: the other
    tokens no longer reach the score there, and every map would be zero. Of branches that meet in the score alone (an
    ensemble, a network each for colours and depth) the one with the most stages, and of equal ones the first to run.

    The resolutions are seen in a forward on an example, which leaves the model as it was.

    Args:
        model: any image classifier.
        inputs: an example batch; left out, zeros of the size the model declares (`input_size`, `image_size`, timm's
            `pretrained_cfg`, `config.image_size` of Hugging Face's), or 224 x 224.

    Example:
        >>> from captum_extract_aggregate import default_layers
        >>> from captum_extract_aggregate.data import load_scene_model
        >>> list(default_layers(load_scene_model("resnet")))
        ['layer1', 'layer2', 'layer3', 'layer4']
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    model = model_of(model) or model
    trace, example = _trace(model, inputs)
    names = {module: name for name, module in model.named_modules()}
    units = sorted(_before(_classifier(trace), _units(model, trace)), key=_start_key(trace))
    stages = max((_stages(branch, trace) for branch in _branches(units, trace)), key=len, default=[])
    chosen = _repeated_blocks(model, trace) if len(stages) == 1 else []
    chosen = chosen or _last_of_each(stages, trace, names)
    _check_one_branch(chosen, trace, names)
    classifier = _classifier(trace, chosen[-1]) if chosen else None
    if classifier is not None and any(trace[module].tokens for module in chosen):
        with Undo() as undo, undo:
            _evaluate(undo, model)
            chosen = _reaching(model, classifier, chosen, example)
    if not chosen:
        shared = [names[unit] for unit in units if trace[unit].times > 1 and _weighted(unit)]
        if shared:
            raise InvalidValueError(
                f"model ({type(model).__name__}) runs {', '.join(shared[:5])} several times in one forward, for views "
                "or branches that share their weights; expected layers that you name yourself, and call=0, call=1, ... "
                "for the view to be explained"
            )
        raise InvalidValueError(
            f"model ({type(model).__name__}) has no resolution stages that default_layers can tell; expected an image "
            "classifier: name the layers yourself"
        )
    return {names[module]: module for module in chosen}


def _reaching(
    model: nn.Module, classifier: nn.Module, layers: list[nn.Module], example: tuple[Tensor, ...]
) -> list[nn.Module]:
    """Returns those of the layers whose positions have any influence on what the classifier sees.

    A last layer that sees all tokens may be a normalisation, of whose tokens the model takes one (open_clip): there it
    is the influence on the scores. (A classifier of zeros, which is yet to be trained, would let none through.)
    """
    lets_through = any(bool(p.any()) for p in classifier.parameters())

    def features(*inputs: Tensor) -> Tensor:
        seen: list[Tensor] = []
        with Undo() as undo, undo:
            undo.hook(classifier, "register_forward_pre_hook", lambda module, args: seen.append(args[0]))
            output = tensors_in([scores_or_output(model(*inputs))])
        scores = [t for t in output if t.requires_grad and t.shape[:1] == seen[0].shape[:1]]
        used = scores if scores and lets_through and seen[0].ndim > 2 else seen[:1]
        flat = torch.cat([t.reshape(len(t), -1) for t in used], 1)
        return (flat * torch.linspace(-1, 1, flat.shape[1], dtype=flat.dtype, device=flat.device)).sum(1)

    places = [Place(layer) for layer in layers]
    evidence = next(record(features, example, places).evidence([None]))
    reaching = []
    for layer, place in zip(layers, places):
        like, gradient = evidence.activations[place][0], evidence.gradients[place][0]
        if to_channels_first(like, "auto", evidence.surroundings(place))(gradient).abs().max() > 0:
            reaching.append(layer)
    return reaching


def _units(module: nn.Module, trace: _Trace) -> Iterator[nn.Module]:
    """Yields the largest modules that stay at one resolution or change it once, in the order in which they ran."""
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


def _branches(units: list[nn.Module], trace: _Trace) -> list[list[nn.Module]]:
    """Lists each unit with positions that no other such unit is computed from, with those it is computed from."""
    once = [unit for unit in units if trace[unit].times == 1]  # what runs again is computed from what it was used for
    on_grid = [unit for unit in once if trace[unit].positions > 1 and (_weighted(unit) or _is_activation(unit))]
    if not any(_is_above(unit, other, trace) for unit in on_grid for other in on_grid):
        return [units]  # nothing is seen of what is computed from what
    ends = [unit for unit in on_grid if not any(_is_above(unit, other, trace) for other in on_grid)]
    return [[unit for unit in units if unit is end or _is_above(unit, end, trace)] for end in ends]


def _last_of_each(stages: list[list[nn.Module]], trace: _Trace, names: dict[nn.Module, str]) -> list[nn.Module]:
    """Returns the last unit of each stage; of units side by side, the one named most like that of the stage behind."""
    chosen: list[nn.Module] = []
    for stage in reversed(stages):
        last = stage[-1]
        if chosen and not all(unit is last or _is_above(unit, last, trace) for unit in stage):
            last = max(reversed(stage), key=lambda unit: _common_parents(names[unit], names[chosen[0]]))
        chosen.insert(0, last)
    return chosen


def _common_parents(name: str, other: str) -> int:
    pairs = zip(name.split("."), other.split("."))
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _is_above(module: nn.Module, other: nn.Module, trace: _Trace) -> bool:
    """Tells whether the other's output was computed from this one's."""
    return module is not other and bool(trace[other].above >> trace[module].started & 1)


def _check_one_branch(chosen: list[nn.Module], trace: _Trace, names: dict[nn.Module, str]) -> None:
    if not any(trace[module].above for module in chosen):
        return
    for module, other in itertools.pairwise(chosen):
        if not _is_above(module, other, trace):
            raise InvalidValueError(
                f"default_layers found layers of different branches ({names[other]!r} is not computed from "
                f"{names[module]!r}); expected layers of one branch, which you name yourself: of "
                f"{', '.join(names[module] for module in chosen)}, ..."
            )


def _classifier(trace: _Trace, after: nn.Module | None = None) -> nn.Module | None:
    """Returns the last layer with weights to run, which makes the scores (of the branch that a module belongs to)."""
    leaves = [m for m in trace if next(m.children(), None) is None and next(m.parameters(), None) is not None]
    if after is not None:
        leaves = [m for m in leaves if _is_above(after, m, trace)] or leaves
    return max(leaves, key=lambda m: trace[m].started, default=None)


def _before(classifier: nn.Module | None, units: Iterator[nn.Module]) -> list[nn.Module]:
    before: list[nn.Module] = []
    for unit in units:
        if any(module is classifier for module in unit.modules()):
            break
        before.append(unit)
    return before


def _stages(units: list[nn.Module], trace: _Trace) -> list[list[nn.Module]]:
    """Returns the units that have positions and do something, grouped by resolution; stems left out."""
    by_octave: dict[int, list[nn.Module]] = {}
    for unit in units:
        run = trace[unit]
        if run.octave is None or run.positions < 2 or run.times > 1:
            continue
        if by_octave and run.octave < max(by_octave):  # not a picture any more: attention between tokens, say
            continue
        if _weighted(unit) or _is_activation(unit):
            by_octave.setdefault(run.octave, []).append(unit)
    stages = [stage for stage in by_octave.values() if any(map(_weighted, stage))]
    of_blocks = [stage for stage in stages if any(_weight_layers(unit) >= 2 for unit in stage)]
    return of_blocks or stages


def _weighted(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ == "torch.nn.modules.activation"


def _repeated_blocks(model: nn.Module, trace: _Trace) -> list[nn.Module]:
    """Returns the largest family of alike siblings with positions, such as the encoder blocks of a ViT."""
    families: list[list[nn.Module]] = []
    for parent in model.modules():
        by_type: dict[type, list[nn.Module]] = {}
        for child in parent.children():
            run = trace.get(child)
            if run is not None and run.octave is not None and run.times == 1 and _weight_layers(child) >= 2:
                by_type.setdefault(type(child), []).append(child)
        families += by_type.values()
    largest = max(families, key=len, default=[])
    return largest if len(largest) > 1 else []


def _weight_layers(module: nn.Module) -> int:
    return sum(isinstance(m, (nn.modules.conv._ConvNd, nn.Linear)) for m in module.modules())


def _trace(model: nn.Module, inputs: Tensor | tuple[Tensor, ...] | None) -> tuple[_Trace, tuple[Tensor, ...]]:
    """Returns one forward of the model in eval mode: at which resolution each module ran, and the example it ran on."""
    trace: _Trace = {}
    error: Exception | None = None
    for tensors in examples(model) if inputs is None else [checked_inputs(inputs)]:
        trace.clear()
        try:
            with Undo() as undo, undo:
                set_grad_mode(undo, False)
                random_state(undo, tensors)
                _evaluate(undo, model)
                _observe(undo, model, trace, tensors)
                model(*tensors)
            return trace, tensors
        except Exception as caught:  # whatever the model's own code raises on a size it does not take
            error = caught
    raise InvalidValueError(
        f"default_layers could not run {type(model).__name__} on {'inputs' if inputs is not None else 'an example'} "
        f"({type(error).__name__}: {error}); expected inputs=, a batch that the model accepts"
    ) from error


def examples(model: nn.Module) -> Iterator[tuple[Tensor, ...]]:
    """Yields noise of the sizes that the model may take, the likeliest first."""
    parameter = next(model.parameters(), torch.zeros(0))
    convolution = next((m for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd)), None)
    channels = 3 if convolution is None else convolution.in_channels
    sizes: list[tuple[int, ...]] = []
    for module in (model, getattr(model, "module", None)):
        config = getattr(module, "pretrained_cfg", None) or {}
        declared = getattr(module, "input_size", None) or (config.get("input_size") if hasattr(config, "get") else None)
        if isinstance(declared, (tuple, list)) and len(declared) > 2:
            sizes.append(tuple(declared))
        config = getattr(module, "config", None)  # of Hugging Face's; of two towers the one of pictures
        for source in (module, config, getattr(config, "vision_config", None), getattr(module, "visual", None)):
            side = getattr(source, "image_size", None)
            side = (side, side) if isinstance(side, int) else side
            if isinstance(side, (tuple, list)) and len(side) == 2:
                of_config = getattr(source, "num_channels", None)
                sizes.append((of_config if isinstance(of_config, int) else channels, *side))
    if isinstance(convolution, nn.Conv3d):
        sizes += [(channels, *grid) for grid in _declared_grids(model, convolution)]
        sizes += [(channels, 16, 112, 112), (channels, 16, 224, 224)]
    sizes += [(channels, side, side) for side in (224, 299, 32, 28)]
    for size in dict.fromkeys(sizes):
        noise = torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
        yield (noise.to(parameter.device, parameter.dtype),)


def _declared_grids(model: nn.Module, patches: nn.Conv3d) -> Iterator[tuple[int, ...]]:
    """Sizes of clips for which a video network holds an embedding of each patch's position (torchvision's MViT)."""
    for module in model.modules():
        steps, grid = getattr(module, "temporal_size", None), getattr(module, "spatial_size", None)
        if isinstance(steps, int) and isinstance(grid, (tuple, list)):
            yield tuple(n * stride for n, stride in zip((steps, *grid), patches.stride))


class _Lineage(TorchFunctionMode):
    """Knows which modules each tensor within was computed from: a bit each."""

    def __init__(self) -> None:
        super().__init__()
        self._above = WeakIdKeyDictionary()

    def of(self, value: Any) -> int:
        above = 0
        for t in tensors_in([value]):
            above |= self._above.get(t, 0)
        return above

    def add(self, value: Any, above: int) -> None:
        for t in tensors_in([value]):
            self._above[t] = self._above.get(t, 0) | above

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        above = self.of([*args, *kwargs.values()])
        if above:
            self.add(args[0] if output is None else output, above)  # t[i] = ... gives nothing
        return output


def _evaluate(undo: Undo, model: nn.Module) -> None:
    """Sets eval mode, until every module's own flag comes back."""
    claim(undo, model)
    for module in model.modules():
        if module.training:
            undo.callback(setattr, module, "training", True)
    model.eval()


def _observe(undo: Undo, model: nn.Module, trace: _Trace, tensors: tuple[Tensor, ...]) -> None:
    """Notes from here on when each module runs, and at which resolution."""
    batch, image = tensors[0].shape[0], image_size(tensors)
    watch, lineage, facts = Watch(tensors, batch), _Lineage(), Facts((model,))

    def positions_of(value: Any, module: nn.Module | None) -> tuple[int | None, int, bool]:
        value = value[0] if isinstance(value, (tuple, list)) and value else value
        if not isinstance(value, Tensor) or not image:
            return None, 0, False
        look = functools.partial(_dims_now, watch, value)
        try:
            around = Surroundings(module=module, models=(model,), batch=batch, image=image, look=look, facts=facts)
            on_grid = to_channels_first(value, "auto", around)(value)
        except ValueError:
            return None, 0, False
        if on_grid.ndim - 2 != len(image):
            return None, 0, False
        positions = math.prod(on_grid.shape[2:])
        scale = (math.prod(image) / positions) ** (1 / (on_grid.ndim - 2))
        return round(math.log2(scale)), positions, value.ndim == 3

    def started(module: nn.Module, args: Any) -> None:
        if module in trace:
            trace[module].times += 1
        else:
            with torch._C.DisableTorchFunction():
                trace[module] = _Run(len(trace), positions_of(args, None)[0])

    def ended(module: nn.Module, args: Any, output: Any) -> None:
        run = trace[module]
        run.above |= lineage.of(output)
        lineage.add(output, 1 << run.started)
        with torch._C.DisableTorchFunction():
            run.octave, run.positions, run.tokens = positions_of(output, module)

    for module in model.modules():
        undo.hook(module, "register_forward_pre_hook", started)
        undo.hook(module, "register_forward_hook", ended)
    undo.callback(leave_function_modes, function_modes())
    watch.__enter__()
    lineage.__enter__()


def _dims_now(watch: Watch, value: Tensor) -> list[Dims | None]:
    return [watch.dims(value)]
