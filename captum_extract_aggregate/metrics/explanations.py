"""Explanations as the measures need them: one map per example, of the input's size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from captum.attr import Attribution, LayerAttribution
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.tensors import at_least_float32, is_constant, upsample
from captum_extract_aggregate._engine.input_positions import (
    InputLayout,
    Positions,
    Size,
    find_positions,
    fits,
    models_of,
)
from captum_extract_aggregate._engine.layers import model_of
from captum_extract_aggregate._engine.model_state import check_batch_norm, without_gradients
from captum_extract_aggregate._engine.one_output import has_one_output, sign_scores, with_wrapped
from captum_extract_aggregate._engine.outputs import find_scores, scores_or_output
from captum_extract_aggregate.attr.base import is_own

Explanation = Callable[..., Any]
_T = TypeVar("_T")


def explainer_of(explanation_func: Explanation | Attribution) -> Explanation:
    """Returns a function `(inputs, target=..., **kwargs) -> attributions`: an attribution object's `attribute`, or as
    it is."""
    if isinstance(explanation_func, Attribution):
        return explanation_func.attribute
    if not callable(explanation_func):
        raise InvalidTypeError(
            f"explanation_func is a {type(explanation_func).__name__}; expected a method such as "
            "NormGrad(model, layer), its attribute, or another function of inputs and target"
        )
    return explanation_func


def per_target_of(explanation_func: Explanation | Attribution) -> Explanation | None:
    """Returns the explainer's `attribute_per_target`, which shares the forward between targets, where it is this
    package's.

    Of any other `attribute` (a subclass's, or one put onto the object) it need not tell the truth.
    """
    owner: Any = getattr(explanation_func, "__self__", explanation_func)
    if not isinstance(owner, Attribution) or not is_own(owner, "attribute", "attribute_per_target"):
        return None
    is_its_attribute = explanation_func is owner or explanation_func == owner.attribute
    return owner.attribute_per_target if is_its_attribute else None  # type: ignore[no-any-return]


@dataclass(frozen=True)
class MapReader:
    """Reads explanations as maps `N x 1 x *S` of the inputs' positions: `H x W` of pictures, `L` of signals, ...

    Args:
        explained: what explains: of a layer method it is known that its maps have channels.
        forward_funcs: whose layers tell which numbers are channels of the input.
        size, layout: of the input's positions, where its shape does not tell them; see `find_positions`.
    """

    explained: Any = None
    forward_funcs: tuple[Any, ...] = ()
    size: Size | None = None
    layout: InputLayout = "auto"

    def maps(self, attributions: Any, inputs: tuple[Tensor, ...]) -> Tensor:
        """Returns the maps at the input's size: channels summed with their signs, upsampled linearly."""
        return self.read(attributions, inputs)[0]

    def read(self, attributions: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Positions, tuple[int, ...]]:
        """Returns the maps, the positions, and the size that the maps had."""
        given = _checked_map(attributions, len(inputs[0]))
        own, positions = self._channels_first(given, inputs)
        summed = own.sum(1, keepdim=True)
        constant = is_constant(summed).reshape(-1, *(1,) * (summed.ndim - 1))
        # what has one value all over keeps it: interpolated, its rounding would be a map
        maps = torch.where(constant, summed.flatten(1)[:, :1].reshape(constant.shape), upsample(summed, positions.size))
        return maps, positions, tuple(own.shape[2:])

    def _channels_first(self, given: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Positions]:
        """Returns the map as `N x K x *s`, and the positions that it is brought to."""
        full = self._dims(inputs) + 2
        same = [i for i, t in enumerate(inputs) if t.shape == given.shape]
        if same and inputs[same[0]].ndim == max(t.ndim for t in inputs):  # an attribution of the input itself
            positions = self._positions(inputs, [], full - 2)
            return positions.arranged(given, same[0]), positions
        if given.ndim >= full:
            return given, self._positions(inputs, [given.shape[2:]])
        if given.ndim == full - 1 and not _has_channels(self.explained):
            own = given.shape[1:]
            positions = self._positions(inputs, [own])
            # N x 1 x L is the map of a sequence, more likely than that of a picture in one row
            if tuple(own) == positions.size or (fits(own, positions.size) and (len(own) == 1 or own[0] > 1)):
                return given.unsqueeze(1), positions
        raise InvalidValueError(
            f"the explanation is {tuple(given.shape)} for inputs of shape {tuple(inputs[0].shape)}: no map with "
            f"{full - 2} position dimensions, as the input has; expected N x K x H x W (or N x H x W) of pictures, "
            "N x K x L of signals: choose layers whose positions are the input's"
        )

    def _dims(self, inputs: tuple[Tensor, ...]) -> int:
        """Returns how many dimensions the positions of the inputs have."""
        if self.size is not None:
            return len(self.size)
        most = max(inputs, key=lambda t: t.ndim)
        return max(1, (self.layout(most) if callable(self.layout) else most).ndim - 2)

    def _positions(self, inputs: tuple[Tensor, ...], maps: list[Any], dims: int | None = None) -> Positions:
        functions = [m.forward_func for m in with_wrapped(_owner(self.explained))]
        return find_positions(inputs, maps, self.layout, self.size, models_of(*functions, *self.forward_funcs), dims)


def _owner(explained: Any) -> Any:
    """Returns the attribution object of a bound `attribute`."""
    return getattr(explained, "__self__", explained)


def _has_channels(explained: Any) -> bool:
    """Tells whether maps come from a layer method, and so with their channels."""
    return any(isinstance(m, LayerAttribution) for m in with_wrapped(_owner(explained)))


def _checked_map(attributions: Any, examples: int) -> Tensor:
    """Returns one real tensor, batch first, in at least float32."""
    if isinstance(attributions, (tuple, list)):
        if len(attributions) != 1:
            raise InvalidValueError(
                f"the explanation is {len(attributions)} tensors; expected one map: explain one layer (or one input), "
                "or combine them (LayerCombination)"
            )
        attributions = attributions[0]
    if not isinstance(attributions, Tensor) or attributions.ndim < 2 or len(attributions) != examples:
        got = tuple(attributions.shape) if isinstance(attributions, Tensor) else type(attributions).__name__
        raise InvalidValueError(
            f"the explanation is {got} for {examples} examples; expected N x K x H x W (or N x H x W) of pictures, "
            "N x K x L of signals"
        )
    if attributions.is_complex():
        raise InvalidTypeError("the explanation is complex, and has no order; expected real numbers")
    attributions = attributions.detach()
    return at_least_float32(attributions) if attributions.is_floating_point() else attributions.double()


def batches_of(examples: int, max_examples_per_batch: int | None) -> list[slice]:
    """Returns the examples in batches."""
    size = examples if max_examples_per_batch is None else max_examples_per_batch
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InvalidValueError(
            f"max_examples_per_batch is {max_examples_per_batch!r}; expected None or an integer of at least 1"
        )
    return [slice(start, start + size) for start in range(0, examples, size)]


def sliced(value: Any, part: slice | Sequence[int], examples: int) -> Any:
    """Returns the part of whatever has one entry per example."""
    if isinstance(value, Tensor):
        return value[part] if value.ndim and len(value) == examples else value
    if isinstance(value, dict):
        return {name: sliced(v, part, examples) for name, v in value.items()}
    if isinstance(value, tuple):
        parts = [sliced(v, part, examples) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list) and len(value) == examples:
        return value[part] if isinstance(part, slice) else [value[i] for i in part]
    return value


def check_mode(forward_func: Callable[..., Any]) -> None:
    """Raises our error for a model in train mode, whose scores depend on the batch and whose statistics move."""
    model = model_of(forward_func)
    if model is not None:
        for module in model.modules():
            check_batch_norm(module, [model], batch=1)


@without_gradients
def output_of(forward_func: Callable[..., Any], inputs: tuple[Tensor, ...], extra: tuple[Any, ...]) -> Any:
    """Returns what the model says of a batch: its scores, or whatever it returns where those cannot be told."""
    return scores_or_output(forward_func(*inputs, *extra))


def scores_of(forward_func: Callable[..., Any], inputs: tuple[Tensor, ...], extra: tuple[Any, ...]) -> Tensor:
    """Returns the class scores `N x classes` of a batch, or our error."""
    return class_scores(output_of(forward_func, inputs, extra), len(inputs[0]))


def class_scores(output: Any, examples: int) -> Tensor:
    """Returns an output as class scores `N x classes`, or our error. Of one output f the classes are its signs: -f and
    f."""
    output = find_scores(output)
    if has_one_output(output, examples):
        output = sign_scores(output)
    if output.ndim != 2 or len(output) != examples or output.shape[1] < 2:
        raise InvalidValueError(
            f"forward_func returned {tuple(output.shape)} for {examples} examples; expected scores, examples x classes "
            "(two or more), or one score per example, whose sign is the class"
        )
    if not torch.isfinite(output).all():
        raise InvalidValueError("forward_func returned scores that are NaN or infinite; expected finite ones")
    return output
