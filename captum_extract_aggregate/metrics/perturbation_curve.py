"""What the model says while pixels are taken out, or put in, in the order of a map.

Sources: Samek et al., Evaluating the Visualization of What a Deep Neural Network Has Learned (2017); Petsiuk et al.,
RISE (BMVC 2018), section 4.3, insertion and deletion; Blucher et al., Decoupling Pixel Flipping and Occlusion Strategy
for Consistent XAI Benchmarks (2024), the symmetric relevance gain.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate._common.progress import each
from captum_extract_aggregate._engine.input_positions import InputLayout, Size, check_input_layout, check_size
from captum_extract_aggregate._engine.model_state import without_gradients
from captum_extract_aggregate._engine.one_output import has_one_output
from captum_extract_aggregate._engine.targets import plain_target, select_scores
from captum_extract_aggregate.metrics.explanations import MapReader, class_scores, sliced
from captum_extract_aggregate.metrics.imputers import FILLS, IMPUTERS, Imputer, check_imputer, imputed
from captum_extract_aggregate.metrics.perturbation import (
    Perturbation,
    check_finite,
    check_inputs,
    check_step,
    pixel_order,
)

Output = str | Callable[[Tensor], Tensor]
_ORDERS = ("most_first", "least_first")
_MODES = ("deletion", "insertion")
_OUTPUTS = ("probability", "logit", "decision")
_STEPS = 20  # where neither step nor fractions is given
# Systems of several steps are solved at once, up to so many, and numbers: few leave a CPU's vectors half empty, many
# its caches.
_TOGETHER, _NUMBERS = 32, 3 * 2**18


@dataclass(frozen=True)
class PerturbationCurve:
    """Holds what the model says of the target at every step, and the area under it.

    Attributes:
        fractions: the share of the pixels that are gone (deletion) or there (insertion), one for each step.
        scores: `N x steps`, float64. areas: `N`, the mean height: trapezoids over the fractions, divided by how far
            they reach; NaN for a single step.
        order, mode: as asked for.
    """

    fractions: Tensor
    scores: Tensor
    areas: Tensor
    order: str
    mode: str

    def mean(self) -> Tensor:
        """Returns each step's mean over the examples."""
        return self.scores.mean(0)

    def plot(self, ax: Any = None, label: str | None = None) -> Any:
        """Plots the means over the steps, with a band of one standard deviation; returns the axes."""
        from matplotlib import pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=(6, 4), layout="constrained")
        mean, spread = (t.cpu() for t in (self.mean(), self.scores.std(0, correction=0)))
        x = self.fractions.cpu()
        ax.plot(x, mean, label=label or f"{self.mode}, {self.order.replace('_', ' ')}")
        ax.fill_between(x, mean - spread, mean + spread, alpha=0.2)
        ax.set_xlabel("pixels that are gone" if self.mode == "deletion" else "pixels that are there")
        ax.set_ylabel("score of the class")
        ax.legend()
        return ax


class SymmetricRelevanceGain(NamedTuple):
    """For each example, the area when the least salient pixels go first minus that when the most salient do; both
    curves."""

    gain: Tensor
    least_first: PerturbationCurve
    most_first: PerturbationCurve


def perturbation_curve(
    model: Callable[..., Any],
    inputs: Tensor,
    maps: Any,
    targets: Any = None,
    order: str = "most_first",
    mode: str = "deletion",
    step: int | None = None,
    fractions: Sequence[float] | None = None,
    imputer: str | Imputer = "constant",
    baseline: float | Tensor = 0.0,
    output: Output = "probability",
    additional_forward_args: Any = None,
    max_examples_per_batch: int | None = None,
    show_progress: bool = False,
    size: Size | None = None,
    layout: InputLayout = "auto",
) -> PerturbationCurve:
    """Returns the target's score while pixels are taken out, or put in, in the order of each map.

    `mode="deletion"` begins with the input and takes pixels out; a good map's area is small with the most salient first
    and large with the least salient first. `mode="insertion"` begins with everything gone and puts pixels in; a good
    map's area is large with the most salient first. A pixel is a position with all its channels. There is one forward
    for each step of a batch.

    Args:
        model: gives logits, `N x classes`, or one each, whose sign is the class. Any function of inputs.
        inputs: `N x C x H x W`; signals and volumes, or with the channels elsewhere, as for `pixel_removal`.
        maps: at any resolution; channels are summed, and the map is upsampled linearly. Of equal values the first pixel
            comes first, in either order, so that a constant map goes row by row.
        targets: the class of each example, or one for all; None: each input's highest scoring class (which takes one
            more forward for each batch).
        order: `"most_first"` or `"least_first"`.
        mode: `"deletion"` or `"insertion"`.
        step: how many pixels at a time: the steps are 0, `step`, 2 `step`, ..., and all; the last may be shorter.
        fractions: shares of the pixels instead, ascending from 0 to 1; at most so many are exchanged. Of neither the
            steps are twentieths: 0, 0.05, ..., 1.
        imputer: what stands where pixels are gone: `"constant"` (the baseline), `"mean"` (of the channel), `"blur"`,
            `"linear"` (`linear_imputation`), `"road"` (the same with noise of 0.01), or a function `(x, gone)` of
            inputs `N x C x *S` and booleans `N x 1 x *S`.
        baseline: a number, or a tensor that broadcasts to the inputs; of `imputer="constant"` alone.
        output: `"probability"` (softmax; of one output the sigmoid), `"logit"`, `"decision"` (1 while the target is the
            highest scoring class, else 0), or a function of the scores `N x classes`, such as `torch.sigmoid`.
        additional_forward_args: for the model.
        max_examples_per_batch: how many examples run at once.
        show_progress: show a progress bar.
        size, layout: of the input, where its shape does not tell its positions from its channels: as for
            `LayerCombination`.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import perturbation_curve
        >>> model = lambda x: torch.stack([x.sum((1, 2, 3)), torch.zeros(len(x))], 1)
        >>> x = torch.tensor([[[[4.0, 1.0], [2.0, 3.0]]]])
        >>> curve = perturbation_curve(model, x, x, targets=0, step=1, output="logit")
        >>> curve.scores.tolist(), curve.areas.item()
        ([[10.0, 6.0, 3.0, 1.0, 0.0]], 3.75)
    """
    curves = _Curves(model, inputs, maps, additional_forward_args, max_examples_per_batch, size, layout)
    counts = curves.counts(step, fractions)
    return curves.run(targets, order, mode, counts, imputer, baseline, output, show_progress)


def symmetric_relevance_gain(
    model: Callable[..., Any],
    inputs: Tensor,
    maps: Any,
    targets: Any = None,
    step: int | None = None,
    fractions: Sequence[float] | None = None,
    imputer: str | Imputer = "constant",
    baseline: float | Tensor = 0.0,
    output: Output = "probability",
    additional_forward_args: Any = None,
    max_examples_per_batch: int | None = None,
    show_progress: bool = False,
    size: Size | None = None,
    layout: InputLayout = "auto",
) -> SymmetricRelevanceGain:
    """Returns the area under the deletion curve with the least salient pixels first minus that with the most salient
    first.

    Higher is better. A map that knows nothing, and a map with its order turned round, average to 0, whatever the
    imputer: what the imputed pixels do by themselves is in both areas. Steps at which nothing or everything is gone are
    the same in both curves and run once.

    Args:
        model, inputs, maps, targets: as for `perturbation_curve`, and so are all others.

    Returns:
        `SymmetricRelevanceGain(gain, least_first, most_first)`: `N` values, and both curves.

    Raises:
        TypeError, ValueError: as `perturbation_curve`.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import symmetric_relevance_gain
        >>> model = lambda x: torch.stack([x.sum((1, 2, 3)), torch.zeros(len(x))], 1)
        >>> x = torch.tensor([[[[4.0, 1.0], [2.0, 3.0]]]])
        >>> symmetric_relevance_gain(model, x, x, targets=0, step=1, output="logit").gain.item()
        2.5
    """
    curves = _Curves(model, inputs, maps, additional_forward_args, max_examples_per_batch, size, layout)
    counts = curves.counts(step, fractions)
    given = imputer, baseline, output, show_progress
    most = curves.run(targets, "most_first", "deletion", counts, *given)
    is_shared = torch.tensor([count in (0, curves.inputs.pixels) for count in counts])
    own = [count for count, shared in zip(counts, is_shared.tolist()) if not shared]
    least = most.scores.clone()
    if own:
        found = curves.run(targets, "least_first", "deletion", own, *given)
        least[:, ~is_shared] = found.scores
    least_first = replace(most, scores=least, areas=_areas(most.fractions, least), order="least_first")
    return SymmetricRelevanceGain(least_first.areas - most.areas, least_first, most)


class _Curves:
    """Holds inputs with their maps, and follows curves of them."""

    def __init__(
        self,
        model: Callable[..., Any],
        inputs: Tensor,
        maps: Any,
        additional_forward_args: Any,
        most: int | None,
        size: Size | None,
        layout: InputLayout,
    ) -> None:
        reader = MapReader(None, (model,), check_size(size), check_input_layout(layout))
        read, positions, _ = reader.read(maps, (check_inputs(inputs),))
        self.maps = check_finite(read)
        self.inputs = Perturbation(model, inputs, positions, additional_forward_args, most)

    def counts(self, step: int | None, fractions: Sequence[float] | None) -> list[int]:
        """Returns how many pixels are exchanged at each step."""
        pixels = self.inputs.pixels
        if step is not None and fractions is not None:
            raise InvalidValueError(f"step is {step!r} and fractions {fractions!r}; expected one of the two")
        if step is not None:
            return [*range(0, pixels, check_step(step)), pixels]
        shares = [i / _STEPS for i in range(_STEPS + 1)] if fractions is None else _checked_fractions(fractions)
        return [math.floor(share * pixels + 1e-9) for share in shares]

    @without_gradients
    def run(
        self,
        targets: Any,
        order: str,
        mode: str,
        counts: Sequence[int],
        imputer: str | Imputer,
        baseline: float | Tensor,
        output: Output,
        show_progress: bool,
    ) -> PerturbationCurve:
        for what, got, known in (("order", order, _ORDERS), ("mode", mode, _MODES)):
            if got not in known:
                raise InvalidValueError(unknown_name(what, got, known))
        imputer, read = check_imputer(imputer), _reading(output)
        fill = self.inputs.filled(baseline, "baseline")
        targets = self.inputs.decisions() if targets is None else plain_target(targets)
        targets = targets.to(self.maps.device) if isinstance(targets, Tensor) else targets
        scores: list[Tensor] = []
        for part in each(self.inputs.parts, "Perturbation curve", show_progress):
            ranked = pixel_order(self.maps[part], order == "most_first")
            states = self._states(part, ranked, counts, mode == "deletion", imputer, fill[part])
            own = sliced(targets, part, len(self.maps))
            rows = [self._score(images, part, own, read, not scores and not i) for i, images in enumerate(states)]
            scores.append(torch.stack(rows, 1))
        fractions = torch.tensor(counts, dtype=torch.float64, device=self.maps.device) / self.inputs.pixels
        found = torch.cat(scores)
        return PerturbationCurve(fractions, found, _areas(fractions, found), order, mode)

    def _score(
        self, images: Tensor, part: slice, target: Any, read: Callable[[Tensor, bool], Tensor], is_first: bool
    ) -> Tensor:
        said = self.inputs.output(images, part)
        is_one = has_one_output(said, len(images))
        if is_first:
            self.inputs.check_logit(said, len(images))
        return select_scores(read(class_scores(said, len(images)).double(), is_one), target)

    def _states(
        self,
        part: slice,
        ranked: Tensor,
        counts: Sequence[int],
        takes_out: bool,
        imputer: str | Imputer,
        baseline: Tensor,
    ) -> Iterator[Tensor]:
        """Yields the images of each step."""
        x, of = self.inputs.inputs[part].contiguous(), self.inputs
        if imputer == "constant" or imputer in FILLS:
            filled = baseline if imputer == "constant" else of.back(FILLS[str(imputer)](of.arrange(x)))
            images, source = (x, filled) if takes_out else (filled, x)
            images, done = images.clone(memory_format=torch.contiguous_format), 0
            for count in counts:
                of.exchange(images, source, ranked[:, done:count])
                done = count
                yield images
            return
        arranged = of.arrange(x)
        ranks = torch.empty_like(ranked).scatter_(1, ranked, torch.arange(of.pixels, device=x.device).expand_as(ranked))
        ranks = ranks.reshape(len(x), 1, *arranged.shape[2:])
        if callable(imputer):
            yield from (of.back(imputed(imputer, arranged, _gone(ranks, [count], takes_out))) for count in counts)
            return
        steps = max(1, min(_TOGETHER // len(x), _NUMBERS // x.numel()))
        for some in (counts[i : i + steps] for i in range(0, len(counts), steps)):
            copies = arranged.repeat(len(some), *(1,) * (arranged.ndim - 1))
            found = IMPUTERS[imputer](copies, _gone(ranks, some, takes_out))
            yield from (of.back(images) for images in found.chunk(len(some)))


def _gone(ranks: Tensor, counts: Sequence[int], takes_out: bool) -> Tensor:
    """Returns which pixels are gone at some steps, one step's examples after the other's."""
    return torch.cat([ranks < count if takes_out else ranks >= count for count in counts])


def _areas(fractions: Tensor, scores: Tensor) -> Tensor:
    width = fractions[-1] - fractions[0]
    return torch.where(width > 0, torch.trapezoid(scores, fractions, dim=1) / width, torch.nan)


def _reading(output: Output) -> Callable[[Tensor, bool], Tensor]:
    """Returns what makes a curve's values of class scores; of one output these are -f and f."""
    if callable(output):
        return lambda scores, is_one: _checked_values(output(scores), scores)
    if output not in _OUTPUTS:
        raise InvalidValueError(unknown_name("output", output, _OUTPUTS, ", or a function of the scores"))
    if output == "probability":
        return lambda scores, is_one: scores.sigmoid() if is_one else scores.softmax(1)
    if output == "logit":
        return lambda scores, is_one: scores
    return lambda scores, is_one: torch.nn.functional.one_hot(scores.argmax(1), scores.shape[1]).double()


def _checked_values(values: Any, scores: Tensor) -> Tensor:
    if not isinstance(values, Tensor) or values.shape != scores.shape:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InvalidTypeError(f"output returned {got} for scores {tuple(scores.shape)}; expected as many values")
    return values.double()


def _checked_fractions(fractions: Any) -> list[float]:
    try:
        found = [float(share) for share in fractions]
    except (TypeError, ValueError):
        found = []
    if not found or any(a >= b for a, b in itertools.pairwise(found)) or not 0 <= found[0] <= found[-1] <= 1:
        raise InvalidValueError(f"fractions is {fractions!r}; expected ascending shares of the pixels, from 0 to 1")
    return found
