"""Inputs whose pixels are exchanged, and what the model then says: what pixel removal and perturbation curves share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from captum._utils.common import _format_additional_forward_args
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._engine.input_positions import Positions
from captum_extract_aggregate._engine.model_state import without_gradients
from captum_extract_aggregate._engine.one_output import check_logit, has_one_output
from captum_extract_aggregate.attr.propagation.linear_shares import broadcasts
from captum_extract_aggregate.metrics.explanations import batches_of, check_mode, class_scores, output_of, sliced


class Perturbation:
    """Holds inputs and a model, exchanges pixels, which are positions with all their channels, and asks the model.

    Args:
        forward_func: gives the class scores, `N x classes`, or one score each.
        inputs: batch first. positions: which of their values lie where.
        additional_forward_args: for `forward_func`.
        max_examples_per_batch: how many examples run at once.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        inputs: Tensor,
        positions: Positions,
        additional_forward_args: Any,
        max_examples_per_batch: int | None,
    ) -> None:
        self.parts = batches_of(len(inputs), max_examples_per_batch)
        check_mode(forward_func)
        self.forward_func, self.most, self.inputs = forward_func, max_examples_per_batch, inputs.detach()
        self.extra = _format_additional_forward_args(additional_forward_args) or ()
        self.elements = positions.elements(inputs)  # channels x pixels: where each pixel's values lie
        self.arrange = positions.arranged
        self._is_arranged = positions.arranged(self.inputs).is_set_to(self.inputs)

    @property
    def pixels(self) -> int:
        """How many there are."""
        return self.elements.shape[1]

    def decisions(self) -> Tensor:
        """Returns the highest scoring class of each input."""
        found: list[Tensor] = []
        for part in self.parts:
            output = self.output(self.inputs[part], part)
            if not found:
                self.check_logit(output, len(self.inputs[part]))
            found.append(class_scores(output, len(self.inputs[part])))
        return torch.cat(found).argmax(1)

    def check_logit(self, output: Any, examples: int) -> None:
        """Raises our error where the model has one output, which is no logit."""
        if has_one_output(output, examples):
            check_logit(self.forward_func, (self.inputs[:1],), sliced(self.extra, slice(0, 1), len(self.inputs)))

    @without_gradients
    def output(self, images: Tensor, examples: slice | Sequence[int]) -> Any:
        """Returns what the model says of images of some examples; it may write to what it is given."""
        extra = tuple(sliced(self.extra, examples, len(self.inputs)))
        return output_of(self.forward_func, (images.clone(),), extra)

    def filled(self, baseline: Any, name: str) -> Tensor:
        """Returns what every removed value becomes, in the shape of the inputs, or our error for the argument."""
        if isinstance(baseline, bool) or not isinstance(baseline, (int, float, Tensor)):
            raise InvalidTypeError(f"{name} is a {type(baseline).__name__}; expected a number or a tensor")
        values = torch.as_tensor(baseline, dtype=self.inputs.dtype, device=self.inputs.device)
        if not broadcasts(values.shape, self.inputs.shape):
            raise InvalidValueError(
                f"{name} has shape {tuple(values.shape)} for inputs of {tuple(self.inputs.shape)}; expected a number "
                "or a tensor that broadcasts to them"
            )
        return values.expand_as(self.inputs)

    def back(self, arranged: Tensor) -> Tensor:
        """Returns `N x C x *S` in the layout of the inputs."""
        if self._is_arranged:
            return arranged.contiguous()
        images = torch.empty(len(arranged), *self.inputs.shape[1:], dtype=arranged.dtype, device=arranged.device)
        images.view(len(images), -1)[:, self.elements.flatten()] = arranged.flatten(1)
        return images

    def exchange(self, images: Tensor, source: Tensor, pixels: Tensor) -> None:
        """Gives some pixels of each image, `N x n` indices, the values that another has there, in place."""
        values = self.elements[:, pixels].movedim(1, 0).flatten(1)
        images.view(len(images), -1).scatter_(1, values, source.flatten(1).gather(1, values))


def pixel_order(map_: Tensor, most: bool) -> Tensor:
    """Returns the pixels of each map of a batch by value, the most or the least salient first; of equal ones the first
    pixel first."""
    return map_.flatten(1).argsort(dim=1, descending=most, stable=True)


def check_inputs(inputs: Any) -> Tensor:
    """Returns inputs whose pixels can be exchanged, or our error."""
    is_given = isinstance(inputs, Tensor) and inputs.ndim >= 2 and len(inputs) and inputs.is_floating_point()
    if not is_given:
        got = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise InvalidTypeError(
            f"inputs is {got}; expected a floating point tensor: pictures N x C x H x W, signals N x C x L, volumes "
            "N x C x D x H x W"
        )
    return inputs


def check_step(step: Any) -> int:
    """Returns how many pixels go at a time, or our error."""
    if isinstance(step, bool) or not isinstance(step, int) or step < 1:
        raise InvalidValueError(f"step is {step!r}; expected an integer of at least 1")
    return step


def check_finite(maps: Tensor) -> Tensor:
    """Returns maps that put pixels in an order, or our error."""
    if not torch.isfinite(maps).all():
        raise InvalidValueError(
            "a map holds NaN or infinite values, so it puts pixels in no order; expected finite ones"
        )
    return maps
