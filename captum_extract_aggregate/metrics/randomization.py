"""Does the map depend on the network's parameters?

Sources: Adebayo et al., Sanity Checks for Saliency Maps (NeurIPS 2018); Rebuffi et al. (CVPR 2020), section 4.5;
Khakzar et al. (2020), section 2.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from captum._utils.common import _format_additional_forward_args
from captum.attr import Attribution
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate._common.progress import each
from captum_extract_aggregate._common.seeding import all_gpus, keep_generators, random_state, seed_torch
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.claims import claim
from captum_extract_aggregate._engine.input_positions import InputLayout, Size, check_input_layout, check_size
from captum_extract_aggregate._engine.layers import checked_inputs, find_layer
from captum_extract_aggregate._engine.model_state import (
    exchange,
    keep_modes,
    set_grad_mode,
    unchanged,
    without_fused_attention,
)
from captum_extract_aggregate.metrics.explanations import Explanation, MapReader, check_mode, explainer_of, sliced
from captum_extract_aggregate.metrics.similarity import Similarity, compared_with, find_similarity

Initializer = Callable[[nn.Module], None]
Stage = tuple[str, nn.Module]
_STD, _VARIANCE = 0.01, 0.01  # two readings of the published N(0, 0.01)
_ORDERS = ("cascading", "independent", "bottom_up", "at_once")


class State(NamedTuple):
    """Says how a network is randomised: `repeat` counts the seeds, `stage` the stages, and `layers` are the indices,
    counted from the output, of what is drawn anew, in the order in which it is.

    What a layer gets depends on the seed and on its index alone, so that in every order of the stages a network with
    the same layers drawn is the same network.
    """

    repeat: int
    stage: int
    layers: tuple[int, ...]


@dataclass(frozen=True)
class Randomization:
    """The similarity to the original map at every stage: `values` is stages x examples, averaged over the seeds.

    `stages` names the layer that each stage randomises, from the output to the input (of `order="bottom_up"` from the
    input to the output); unless `order="independent"` all stages before it stay randomised too. `per_seed` is stages x
    seeds x examples. The original network, whose similarity is 1, is no stage and enters no average.
    """

    stages: tuple[str, ...]
    values: Tensor
    per_seed: Tensor
    order: str
    similarity: str

    def mean(self) -> Tensor:
        """Returns each stage's mean over the examples whose similarity is defined (NaN if none is)."""
        return self.values.nanmean(1)

    def undefined(self) -> Tensor:
        """Returns for each stage the number of examples whose similarity is undefined, as their map has become
        constant."""
        return self.values.isnan().sum(1)

    def records(self) -> list[dict[str, Any]]:
        """Returns one dictionary per stage and example."""
        return [
            {"stage": i, "layer": name, "example": j, "order": self.order, self.similarity: value}
            for i, name in enumerate(self.stages)
            for j, value in enumerate(self.values[i].tolist())
        ]

    def plot(self, ax: Any = None, label: str | None = None) -> Any:
        """Returns the curve of means over the stages, with a band of one standard deviation; returns the axes."""
        from matplotlib import pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=(8, 4), layout="constrained")
        mean = self.mean()
        spread = (self.values - mean[:, None]).square().nanmean(1).sqrt()
        x = range(len(self.stages))
        ax.plot(x, mean, marker="o", markersize=3, label=label or self.similarity)
        ax.fill_between(x, mean - spread, mean + spread, alpha=0.2)
        ax.set_xticks(list(x), self.stages, rotation=90, fontsize=7)
        begin = "input" if self.order == "bottom_up" else "output"
        ax.set_xlabel(f"randomised from the {begin} on ({self.order})")
        ax.set_ylabel(f"{self.similarity} with the original map")
        ax.axhline(0, color="grey", linewidth=0.5)
        ax.legend()
        return ax


def parameter_randomization(
    explanation_func: Explanation | Attribution,
    model: nn.Module,
    inputs: Tensor | tuple[Tensor, ...],
    target: Any = None,
    order: str = "cascading",
    init: str | Initializer = "normal",
    similarity: str | Similarity = "spearman",
    n_seeds: int = 1,
    seed: int = 0,
    layers: Sequence[str | nn.Module] | None = None,
    additional_forward_args: Any = None,
    show_progress: bool = False,
    size: Size | None = None,
    layout: InputLayout = "auto",
    **kwargs: Any,
) -> Randomization:
    """Returns the similarity of maps before and after layers of the network are initialised anew, from output to input.

    A map that depends on what the network has learned falls to the similarity's null baseline. So does a random
    map that is drawn anew each time: the measure refuses maps, and proves none right.

    Args:
        explanation_func: an attribution object on `model`, its `attribute`, or any function
            `(inputs, target=..., **kwargs)` that explains `model`.
        model: the network; it comes back bit for bit, also after an exception.
        inputs, target, additional_forward_args, kwargs: for the explainer.
        order: `"cascading"`: each stage randomises one more layer, from the output on; `"bottom_up"`: the same from the
            input on; `"independent"`: each only its own; `"at_once"`: one stage, all layers.
        init: `"normal"`: every parameter from a normal distribution of standard deviation 0.01, one reading of the
            published N(0, 0.01), and `"normal_variance"`, of variance 0.01, the other one, whose parameters are ten
            times larger; `"reset"`: the layer's own `reset_parameters`; `"matched"`: every parameter from a normal
            distribution with its own mean and deviation, so that signals keep their scale (with the others many
            networks give constant maps, whose similarity is undefined); or a function that initialises a layer in
            place.
        similarity: as for `class_sensitivity`.
        n_seeds, seed: the whole is repeated with the seeds `seed`, `seed + 1`, ...; the global random state is kept.
        layers: which layers, blocks of layers, or their names are stages; None: every layer that holds parameters of
            its own. Stages follow the order in which the layers run.
        show_progress: show a progress bar.
        size, layout: of the input, where its shape does not tell its positions from its channels: as for
            `LayerCombination`.

    Returns:
        A `Randomization`, with `stages`, `values` (stages x examples), `mean()`, `plot()`.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.metrics import parameter_randomization
        >>> model = cea.load_scene_model("resnet")
        >>> images = torch.stack([image for image, _ in cea.DigitScenes(n=2)])
        >>> blocks = ["fc", "layer4", "layer3", "layer2"]
        >>> result = parameter_randomization(cea.NormGrad(model, "layer3"), model, images, target=7, layers=blocks)
        >>> result.stages, tuple(result.values.shape)
        (('fc', 'layer4', 'layer3', 'layer2'), (4, 2))
    """
    check_randomization(order, init, n_seeds)  # its errors come before any work
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model is a {type(model).__name__}; expected the torch.nn.Module that is explained")
    check_mode(model)
    find_similarity(similarity)
    tensors = checked_inputs(inputs)
    kwargs |= {} if target is None else {"target": target}
    kwargs |= {} if additional_forward_args is None else {"additional_forward_args": additional_forward_args}
    explain = explainer_of(explanation_func)
    stages = randomization_stages(
        model, layers, tensors, _format_additional_forward_args(additional_forward_args) or ()
    )
    names, states = stage_names(stages, order), randomization_states(order, n_seeds, len(stages))
    reader = MapReader(explanation_func, (model,), check_size(size), check_input_layout(layout))
    original = reader.maps(explain(inputs, **kwargs), tensors)
    compare = compared_with(original, similarity)
    values = torch.full((len(names), n_seeds, len(original)), torch.nan, dtype=torch.float64)
    with Undo() as undo, undo:
        keep_modes(undo)
        drawn = randomized(model, stages, states, init, seed)
        undo.callback(drawn.close)
        for now in each(drawn, "Parameter randomization", show_progress, total=len(states)):
            maps = reader.maps(explain(inputs, **kwargs), tensors)
            values[now.stage, now.repeat] = compare(maps).double().cpu()
    name = similarity if isinstance(similarity, str) else getattr(similarity, "__name__", "similarity")
    return Randomization(names, values.nanmean(1), values, order, name)


def check_randomization(order: str, init: str | Initializer, n_seeds: int) -> None:
    """Raises our error for a way to randomise that is not known."""
    if order not in _ORDERS:
        raise InvalidValueError(unknown_name("order", order, _ORDERS))
    if isinstance(n_seeds, bool) or not isinstance(n_seeds, int) or n_seeds < 1:
        raise InvalidValueError(f"n_seeds is {n_seeds!r}; expected an integer of at least 1")
    _initializer(init)


def stage_names(stages: Sequence[Stage], order: str) -> tuple[str, ...]:
    """Returns the names of the stages in their order, of layers that are listed from the output on."""
    names = tuple(name for name, _ in stages)
    return ("all layers",) if order == "at_once" else names[::-1] if order == "bottom_up" else names


def randomization_states(order: str, n_seeds: int, count: int) -> list[State]:
    """Returns the states that a network of so many layers goes through."""
    everything = range(count)
    chosen: dict[str, list[Sequence[int]]] = {
        "cascading": [everything[: i + 1] for i in everything],
        "independent": [(i,) for i in everything],
        "bottom_up": [everything[::-1][: i + 1] for i in everything],
        "at_once": [everything],
    }
    return [State(s, i, tuple(layers)) for s in range(n_seeds) for i, layers in enumerate(chosen[order])]


def randomized(
    model: nn.Module, stages: Sequence[Stage], states: Sequence[State], init: str | Initializer, seed: int
) -> Generator[State, None, None]:
    """Goes through some states; at each that it gives, the model is in it. The model comes back when it ends or is
    closed.

    Args:
        model: the network. stages: its layers, from the output on. states: of `randomization_states`, or some of them.
        init, seed: as for `parameter_randomization`.
    """
    initialize = _initializer(init)
    with Undo() as undo, undo:
        claim(undo, model)
        unchanged(undo, model)
        for chain in _chains(states):
            with Undo() as drawn, drawn:  # every chain begins with the original network
                done = 0
                for state in chain:
                    for layer in state.layers[done:]:
                        with Undo() as drawing, drawing:
                            keep_generators(drawing, all_gpus())
                            seed_torch(seed + state.repeat + 1_000_003 * layer)
                            _randomize(stages[layer][1], initialize, drawn)
                    done = len(state.layers)
                    yield state


def _chains(states: Sequence[State]) -> list[list[State]]:
    """Returns states in runs in which each goes on with what is drawn already."""
    chains: list[list[State]] = []
    for state in states:
        last = chains[-1][-1] if chains else None
        if last is not None and (state.repeat, state.layers[: len(last.layers)]) == (last.repeat, last.layers):
            chains[-1].append(state)
        else:
            chains.append([state])
    return chains


def _initializer(init: str | Initializer) -> Initializer:
    if callable(init):
        return init
    known = {"normal": _normal, "normal_variance": _normal_variance, "reset": _reset, "matched": _matched}
    if init not in known:
        raise InvalidValueError(unknown_name("init", init, known, ", or a function that initialises a layer in place"))
    return known[init]


def _normal(layer: nn.Module) -> None:
    for p in layer.parameters(recurse=False):
        nn.init.normal_(p, std=_STD)


def _normal_variance(layer: nn.Module) -> None:
    for p in layer.parameters(recurse=False):
        nn.init.normal_(p, std=math.sqrt(_VARIANCE))


def _matched(layer: nn.Module) -> None:
    for p in layer.parameters(recurse=False):
        deviation = float(p.std()) if p.numel() > 1 else 0.0
        nn.init.normal_(p, float(p.mean()), deviation)


def _reset(layer: nn.Module) -> None:
    reset = getattr(layer, "reset_parameters", None)
    if not callable(reset):
        raise InvalidValueError(
            f"init is 'reset', but a {type(layer).__name__} has no reset_parameters; expected init='normal' or a "
            "function of the layer"
        )
    computed = [n for n in ("weight", "bias") if n not in layer._parameters and isinstance(vars(layer).get(n), Tensor)]
    if computed:  # reset would write to what the next forward replaces
        raise InvalidValueError(
            f"init is 'reset', but the {computed[0]} of a {type(layer).__name__} is computed anew from other numbers "
            "(pruned, weight-normalised); expected init='normal', a function of the layer, or a plain layer: "
            "torch.nn.utils.prune.remove, remove_weight_norm or remove_spectral_norm"
        )
    reset()


def _holders(module: nn.Module) -> list[nn.Module]:
    """Returns the modules inside that hold parameters of their own."""
    return [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]


def randomization_stages(
    model: nn.Module, wanted: Sequence[Any] | None, inputs: tuple[Tensor, ...], extra: tuple[Any, ...]
) -> list[Stage]:
    """Returns the stages by name, from the output to the input, in the order in which their layers run."""
    names = {m: name for name, m in model.named_modules()}
    first = _first_runs(model, inputs, extra)
    found: list[nn.Module | None]
    if wanted is None:  # those that never run change nothing
        found = [m for m in dict.fromkeys(_owners(model, first)) if m is not None]
    else:
        found = [find_layer(layer, model) for layer in wanted]
    chosen = [m for m in dict.fromkeys(found) if m is not None and m in names]
    if len(chosen) != len(found):
        raise InvalidValueError(
            "layers holds one twice, or one that is no part of the model; expected its own, each once"
        )
    empty = [names[m] for m in chosen if not _holders(m)]
    if empty or not chosen:
        what = ", ".join(map(repr, empty)) or "the model"
        raise InvalidValueError(f"{what} holds no parameters to randomise; expected layers (or a model) with some")
    idle = [names[m] for m in chosen if not any(inner in first for inner in m.modules())]
    if idle:
        raise InvalidValueError(f"layers {idle} never run; expected layers that the explained scores come from")
    chosen.sort(key=lambda m: min(first.get(inner, len(first)) for inner in m.modules()))
    return [(names[m] or "the whole model", m) for m in reversed(chosen)]


def _owners(model: nn.Module, first: Mapping[nn.Module, int]) -> list[nn.Module | None]:
    """Returns the layer that each holder of parameters belongs to: attention uses its projection without calling it,
    and parametrised layers keep their weights in a part of their own. None where it never runs."""
    modules = dict(model.named_modules())
    names = {m: name for name, m in modules.items()}

    def owner(holder: nn.Module) -> nn.Module | None:
        name = names[holder]
        if ".parametrizations." in f".{name}.":
            return modules[f".{name}.".split(".parametrizations.")[0].strip(".")]
        if holder in first:
            return holder
        parent = modules[name.rpartition(".")[0]]
        return parent if isinstance(parent, nn.MultiheadAttention) and parent in first else None

    return [owner(m) for m in _holders(model)]


def _first_runs(model: nn.Module, inputs: tuple[Tensor, ...], extra: tuple[Any, ...]) -> dict[nn.Module, int]:
    """Returns when each module first runs in a forward.

    One example tells it, unless the network takes no single one, or leaves a layer out for it.
    """
    examples = len(inputs[0])
    if examples > 1:
        with contextlib.suppress(Exception):  # which a whole batch raises again if it is not of the single example
            one = slice(0, 1)
            first = _runs(model, sliced(inputs, one, examples), sliced(extra, one, examples))
            if all(m is not None for m in _owners(model, first)):
                return first
    return _runs(model, inputs, extra)


def _runs(model: nn.Module, inputs: tuple[Tensor, ...], extra: tuple[Any, ...]) -> dict[nn.Module, int]:
    first: dict[nn.Module, int] = {}

    def note(module: nn.Module, args: Any) -> None:
        first.setdefault(module, len(first))

    with Undo() as undo, undo:
        set_grad_mode(undo, False)
        claim(undo, model)
        random_state(undo, inputs)
        unchanged(undo, model)
        without_fused_attention(undo)  # it runs an encoder's layers without calling them
        for module in model.modules():
            undo.hook(module, "register_forward_pre_hook", note)
        model(*inputs, *extra)
    return first


def _randomize(stage: nn.Module, initialize: Initializer, undo: Undo) -> None:
    """Initialises copies of a stage's parameters and buffers; the originals come back when the stack closes."""
    stand_in = torch.empty_like if initialize in (_normal, _normal_variance) else torch.clone  # these read nothing
    for module in _holders(stage):
        for name, buffer in module._buffers.items():
            if buffer is not None:
                undo.callback(module._buffers.__setitem__, name, buffer)
                module._buffers[name] = buffer.clone()
        own = dict(module._parameters)
        with Undo() as stand_ins, stand_ins:  # other parameters stand in, so that the originals are not written to
            set_grad_mode(stand_ins, False)
            stand_ins.callback(module._parameters.update, own)
            for name, p in own.items():
                if p is not None:
                    module._parameters[name] = nn.Parameter(stand_in(p.detach()), p.requires_grad)
            initialize(module)
            drawn = dict(module._parameters)
        for name, p in own.items():
            new = drawn[name]
            if p is not None and new is not None:
                exchange(undo, p, new.data)
