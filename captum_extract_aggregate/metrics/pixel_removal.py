"""How many pixels can go, in the order of the map, before the decision flips?

Source: Grabska-Barwinska, Measuring and improving the quality of visual explanations (2020), section 4 and appendix F.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate._common.progress import each
from captum_extract_aggregate._engine.input_positions import InputLayout, Size, check_input_layout, check_size
from captum_extract_aggregate._engine.model_state import without_gradients
from captum_extract_aggregate.metrics.explanations import MapReader, class_scores
from captum_extract_aggregate.metrics.perturbation import (
    Perturbation,
    check_finite,
    check_inputs,
    check_step,
    pixel_order,
)

_ORDERS = ("least", "most")


class Removal(NamedTuple):
    """For each example: e, how many pixels were gone when the decision first flipped, and whether it did."""

    e: Tensor
    pixels: Tensor
    flipped: Tensor


class RemovalContrast(NamedTuple):
    """For each example, e of its own map minus the mean e of other images' maps: least salient pixels first
    (higher is better), most salient first (lower is better), and the difference of the two (higher is better)."""

    delta_minus: Tensor
    delta_plus: Tensor
    delta: Tensor
    own_minus: Removal
    own_plus: Removal


def pixel_removal(
    forward_func: Callable[..., Any],
    inputs: Tensor,
    attributions: Any,
    order: str = "least",
    baselines: float | Tensor = 0.0,
    step: int = 1,
    additional_forward_args: Any = None,
    max_examples_per_batch: int | None = None,
    show_progress: bool = False,
    size: Size | None = None,
    layout: InputLayout = "auto",
) -> Removal:
    r"""Removes pixels in the order of each map until `argmax` of the scores first changes.

    :math:`e = 1 - \|x_s\|_2 / \|x\|_2`, with :math:`x_s` what is left of the signal at the flip (both relative to the
    baseline). e of `order="least"` is high for a good map, e of `order="most"` low. An example that never flips has
    e = 1. The first change counts, even if the decision comes back later: every step is looked at.

    A pixel is a position with all its channels: of a signal a sample, of a volume a voxel, of a clip a pixel of one
    frame. Of a model with one output (`N` or `N x 1`, a logit) the decision is the sign: above 0, or not.

    Args:
        forward_func: gives the class scores, `N x classes`, or one score each.
        inputs: `N x C x H x W`; `N x C x L` or `N x L`; `N x C x D x H x W`; or with the channels elsewhere.
        attributions: maps at any resolution, `N x K x h x w` or `N x h x w` (in 1-D and 3-D likewise); channels are
            summed, and the map is upsampled linearly. Of equal values the first pixel goes first.
        order: `"least"` or `"most"` salient pixels first.
        baselines: what a removed pixel becomes: a number, or a tensor that broadcasts to the inputs.
        step: how many pixels go at a time; 1 is exact to the pixel.
        additional_forward_args: for `forward_func`.
        max_examples_per_batch: how many examples run at once; when one has flipped, the next takes its place.
        show_progress: show a progress bar.
        size, layout: of the input, where its shape does not tell its positions from its channels: as for
            `LayerCombination`.

    Returns:
        `Removal(e, pixels, flipped)`, `N` each. e is NaN where the input equals the baseline everywhere.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import pixel_removal
        >>> weight = torch.tensor([4.0, 3.0, 2.0, 1.0])
        >>> def forward(x):  # class 0 while more than half of the weighted signal is there
        ...     score = (x.flatten(1) * weight).sum(1) - 5.5
        ...     return torch.stack([score, -score], 1)
        >>> x = torch.ones(1, 1, 2, 2)
        >>> removal = pixel_removal(forward, x, weight.reshape(1, 1, 2, 2), order="most")
        >>> removal.pixels.item(), round(removal.e.item(), 4)
        (2, 0.2929)
    """
    reader = MapReader(None, (forward_func,), check_size(size), check_input_layout(layout))
    maps, positions, _ = reader.read(attributions, (check_inputs(inputs),))
    maps = check_finite(maps)
    given = Perturbation(forward_func, inputs, positions, additional_forward_args, max_examples_per_batch)
    engine = _Engine(given, baselines, step)
    jobs = [_Job(i, maps[i, 0], _is_most(order)) for i in range(len(inputs))]
    return engine.run(jobs, "Pixel removal", show_progress)


def removal_contrast(
    forward_func: Callable[..., Any],
    inputs: Tensor,
    attributions: Any,
    pool: Any = None,
    n_shuffles: int = 1,
    baselines: float | Tensor = 0.0,
    step: int = 1,
    additional_forward_args: Any = None,
    max_examples_per_batch: int | None = None,
    seed: int = 0,
    show_progress: bool = False,
    size: Size | None = None,
    layout: InputLayout = "auto",
) -> RemovalContrast:
    r"""Returns what a map adds to the maps that the same method gives for other images.

    :math:`\delta e = e(x, s) - e(x, \xi)`, with :math:`\xi` drawn from other images' maps, so that what all maps of a
    method share (a centre bias, a texture) counts for nothing. Compare methods image by image
    (`captum_extract_aggregate.metrics.compare`).

    Args:
        forward_func, inputs, attributions, baselines, step, additional_forward_args, max_examples_per_batch: as for
            `pixel_removal`.
        pool: maps of other inputs by the same method, `M x K x h x w`, none of them of these inputs; None: each
            example takes the maps of the other examples of this call.
        n_shuffles: how many are drawn for each example, without replacement; their e are averaged.
        seed: of the draws.
        show_progress: show a progress bar.
        size, layout: as for `pixel_removal`.

    Returns:
        `RemovalContrast(delta_minus, delta_plus, delta, own_minus, own_plus)`.

    Raises:
        TypeError, ValueError: as `pixel_removal`; for a pool that is too small.

    Example:
        >>> import torch
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.metrics import removal_contrast
        >>> model = cea.load_scene_model("resnet")
        >>> images = torch.stack([image for image, _ in cea.DigitScenes(n=3)])
        >>> maps = cea.LinearApproximation(model, "layer3").attribute(images, target=model(images).argmax(1))
        >>> removal_contrast(model, images, maps, step=512).delta_minus.shape
        torch.Size([3])
    """
    examples = len(check_inputs(inputs))
    reader = MapReader(None, (forward_func,), check_size(size), check_input_layout(layout))
    maps, positions, _ = reader.read(attributions, (inputs,))
    maps = check_finite(maps)
    others = maps if pool is None else _pool_maps(pool, inputs, reader)
    available = len(others) - (pool is None)
    if isinstance(n_shuffles, bool) or not isinstance(n_shuffles, int) or not 1 <= n_shuffles <= available:
        raise InvalidValueError(
            f"n_shuffles is {n_shuffles!r}, and there are {available} maps of other images; expected 1 to {available}"
        )
    generator = torch.Generator().manual_seed(seed)
    jobs = []
    for i in range(examples):
        drawn = torch.randperm(available, generator=generator)[:n_shuffles].tolist()
        drawn = [j + (pool is None and j >= i) for j in drawn]  # never the image itself
        for most in (False, True):
            jobs += [_Job(i, maps[i, 0], most), *(_Job(i, others[j, 0], most) for j in drawn)]
    given = Perturbation(forward_func, inputs, positions, additional_forward_args, max_examples_per_batch)
    engine = _Engine(given, baselines, step)
    done = engine.run(jobs, "Removal contrast", show_progress)
    e, pixels, flipped = (t.reshape(examples, 2, 1 + n_shuffles) for t in done)
    minus, plus = (e[:, k, 0] - e[:, k, 1:].mean(1) for k in (0, 1))
    own = [Removal(e[:, k, 0], pixels[:, k, 0], flipped[:, k, 0]) for k in (0, 1)]
    return RemovalContrast(minus, plus, minus - plus, own[0], own[1])


@dataclass(frozen=True)
class _Job:
    """Holds one map to follow on one image."""

    example: int
    map: Tensor
    most: bool


class _Engine:
    """Follows many maps at once: each slot of the batch holds one image that loses pixels; who has flipped leaves."""

    def __init__(self, inputs: Perturbation, baselines: float | Tensor, step: int) -> None:
        self.of, self.step, self.baselines = inputs, check_step(step), inputs.filled(baselines, "baselines")
        self.decisions = inputs.decisions()

    @without_gradients
    def run(self, jobs: Sequence[_Job], what: str, show_progress: bool) -> Removal:
        size = self.of.elements.shape[1]
        left = torch.full(
            (len(jobs),), size, device=self.of.inputs.device
        )  # pixels gone at the flip; none: all of them
        flipped = torch.zeros(len(jobs), dtype=torch.bool, device=self.of.inputs.device)
        for job, gone, flips in each(self._followed(jobs), what, show_progress, total=len(jobs)):
            if flips:
                left[job], flipped[job] = gone, True
        e = torch.stack([self._e(job, int(gone)) for job, gone in zip(jobs, left.tolist())])
        return Removal(e, left, flipped)

    def _followed(self, jobs: Sequence[_Job]) -> Iterator[tuple[int, int, bool]]:
        """Yields each job at its end, how many pixels were gone then, and whether it flipped."""
        waiting = iter(range(len(jobs)))
        slots = min(self.of.most or len(jobs), len(jobs))
        running = [next(waiting) for _ in range(slots)]
        images = torch.stack(
            [self.of.inputs[jobs[j].example] for j in running]
        ).contiguous()  # written to through views
        orders = torch.stack([_order(jobs[j]) for j in running])
        gone = torch.zeros(slots, dtype=torch.long)
        while running:
            self._remove(images, orders, gone, [jobs[j].example for j in running])
            gone = (gone + self.step).clamp(max=self.of.pixels)
            examples = [jobs[j].example for j in running]
            decided = class_scores(self.of.output(images, examples), len(images)).argmax(1)
            flips = (decided != self.decisions[examples]).cpu()
            over = flips | (gone >= self.of.pixels)
            if not over.any():
                continue
            kept = []
            for slot in range(len(running)):
                if not over[slot]:
                    kept.append(slot)
                    continue
                yield running[slot], int(gone[slot]), bool(flips[slot])
                following = next(waiting, None)
                if following is not None:
                    running[slot], gone[slot] = following, 0
                    images[slot], orders[slot] = self.of.inputs[jobs[following].example], _order(jobs[following])
                    kept.append(slot)
            if len(kept) < len(running):  # nobody waits any more: the batch shrinks
                running = [running[slot] for slot in kept]
                images, orders, gone = images[kept].contiguous(), orders[kept], gone[kept]

    def _remove(self, images: Tensor, orders: Tensor, gone: Tensor, examples: list[int]) -> None:
        """Sets the next pixels of each image to the baseline, in place."""
        ranks = (gone[:, None] + torch.arange(self.step)).clamp(max=orders.shape[1] - 1).to(orders.device)
        self.of.exchange(images, self.baselines[examples], orders.gather(1, ranks))

    def _e(self, job: _Job, gone: int) -> Tensor:
        signal = (self.of.inputs[job.example] - self.baselines[job.example]).double().flatten()
        energy = signal[self.of.elements].square().sum(0)
        kept = energy[_order(job)[gone:]].sum()
        return torch.where(energy.sum() > 0, 1 - (kept / energy.sum()).sqrt(), torch.nan)


def _order(job: _Job) -> Tensor:
    """Returns the pixels in the order in which they go."""
    return pixel_order(job.map[None], job.most)[0]


def _is_most(order: str) -> bool:
    if order not in _ORDERS:
        raise InvalidValueError(unknown_name("order", order, _ORDERS))
    return order == "most"


def _pool_maps(pool: Any, inputs: Tensor, reader: MapReader) -> Tensor:
    pool = pool[0] if isinstance(pool, tuple) and len(pool) == 1 else pool
    if not isinstance(pool, Tensor) or pool.ndim < 2 or not len(pool):
        got = tuple(pool.shape) if isinstance(pool, Tensor) else type(pool).__name__
        raise InvalidTypeError(f"pool is {got}; expected maps of other images, M x K x h x w")
    return check_finite(reader.maps(pool, (inputs[:1].expand(len(pool), *inputs.shape[1:]),)))
