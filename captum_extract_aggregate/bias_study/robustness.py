"""Are decisions robust to the scale of the input, and to a constant added to it?

Source: Grabska-Barwinska, Measuring and improving the quality of visual explanations (2020), appendix B.1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.model_state import set_grad_mode
from captum_extract_aggregate.bias_study.batches import (
    batches_of,
    check_eval,
    hits,
    outputs_of,
    percent,
    same_decision,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALES = (0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1000.0)
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # readable with any colour vision
_SHOWN = {"top1": "top-1", "same_decision": "same decision"}
SHIFTS = (-10.0, -3.0, -1.0, -0.3, 0.0, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class RobustnessRow:
    """Holds one change of the inputs, with one value per image: 0 or 1; NaN where unknown, or an output is not a
    number."""

    value: float
    top1: Tensor
    top5: Tensor
    same_decision: Tensor


@dataclass(frozen=True)
class InputRobustness:
    """Holds what `input_robustness` found; `print` it. `plot()` draws it."""

    scales: list[RobustnessRow]
    shifts: list[RobustnessRow]

    @property
    def n(self) -> int:
        """The number of images."""
        return len([*self.scales, *self.shifts][0].top1)

    def __str__(self) -> str:
        lines = [f"{self.n} images{'':14}{'top-1':>10}{'top-5':>10}   same decision"]
        for how, rows in (("times", self.scales), ("plus", self.shifts)):
            for row in rows:
                undefined = int(row.same_decision.isnan().sum())
                told = f"   ({undefined} undefined)" if undefined else ""
                changed = f"input {how} {row.value:g}"
                lines.append(
                    f"{changed:22}{percent(row.top1):>10}{percent(row.top5):>10}{percent(row.same_decision):>16}{told}"
                )
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Draws accuracy (where labels are known) and same decisions over the scales and the shifts."""
        return plot_robustness({"": self})


def plot_robustness(found: Mapping[str, InputRobustness], title: str = "") -> Figure:
    """Returns several networks' robustness, by name, in one figure: `figure.savefig(path)`."""
    from captum_extract_aggregate._common.notebook_figure import NotebookFigure

    figure = NotebookFigure(figsize=(9, 3.6), layout="constrained")
    axes: Any = figure.subplots(1, 2, sharey=True)
    for (name, robustness), colour in zip(found.items(), itertools.cycle(_COLOURS)):
        for ax, rows in zip(axes, (robustness.scales, robustness.shifts)):
            rows = sorted(rows, key=lambda row: row.value)
            for what, style in (("top1", "o-"), ("same_decision", "s--")):
                means = [100 * float(getattr(row, what).nanmean()) for row in rows]
                if not all(map(math.isnan, means)):
                    label = f"{name}: {_SHOWN[what]}" if name else _SHOWN[what]
                    ax.plot(range(len(rows)), means, style, color=colour, markersize=4, label=label)
            ax.set_xticks(range(len(rows)), [f"{row.value:g}" for row in rows], fontsize=8)
    axes[0].set(xlabel="input times", ylabel="% of images", ylim=(0, 102))
    axes[1].set_xlabel("input plus")
    figure.suptitle(title, fontsize=10)
    next(ax for ax in axes if ax.get_lines()).legend(fontsize=7)
    return figure


def input_robustness(
    model: nn.Module,
    dataloader: Iterable[Any],
    scales: Sequence[float] = SCALES,
    shifts: Sequence[float] = SHIFTS,
    show_progress: bool = True,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
) -> InputRobustness:
    r"""Returns how many decisions survive :math:`s \cdot x`, and how many :math:`x + d`.

    Published is what becomes of pixel values that are scaled, or shifted by a part of their range, before the network's
    normalisation: give the `mean` and `std` that your inputs were normalised with, and shifts count in the pixels'
    range (1 for pixels in [0, 1]). Left out, scale and shift act on the tensors that the network takes. Of those, a
    network of convolutions, linear layers, ReLU and pooling without biases decides the same for every scale above 0.

    Args:
        model: a classifier in eval mode with outputs `N x classes`. It is left as it was.
        dataloader: as for `bias_report`.
        scales, shifts: finite numbers; scale 1 and shift 0 change nothing.
        show_progress: show a progress bar.
        mean, std: of the normalisation, one number or one for each channel (dimension 1): pixels are
            :math:`x \cdot std + mean`.

    Returns:
        `InputRobustness`: for each scale and shift the accuracy (top-1, top-5) and whether the decision stays.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.bias_study import input_robustness, remove_biases
        >>> x = torch.stack([image for image, _ in cea.DigitScenes(8)])
        >>> bare = remove_biases(cea.load_scene_model("vgg"))
        >>> found = input_robustness(bare, [x], scales=[0.5, 4.0], shifts=[], show_progress=False)
        >>> [row.same_decision.mean().item() for row in found.scales]
        [1.0, 1.0]

    Source: Grabska-Barwinska (2020), appendix B.1.
    """
    check_eval(model)
    scales, shifts = _numbers("scales", scales), _numbers("shifts", shifts)
    changes = [(s, 0.0) for s in scales] + [(1.0, d) for d in shifts]
    if not changes:
        raise InvalidValueError("scales and shifts are empty; expected at least one number")
    mean, std = _numbers("mean", mean), _numbers("std", std)
    if not mean or not std or min(std) <= 0:
        raise InvalidValueError(
            f"mean is {mean} and std {std}; expected one number or one for each channel, std above 0"
        )
    found: list[list[tuple[Tensor, ...]]] = [[] for _ in changes]
    with Undo() as undo, undo:
        set_grad_mode(undo, False)
        for x, labels in batches_of(dataloader, model, show_progress, "Input robustness"):
            plain = outputs_of(model, x)
            for (scale, shift), columns in zip(changes, found):
                y = outputs_of(model, _changed(x, scale, shift, mean, std))
                values = hits(y, labels, 1), hits(y, labels, 5), same_decision(plain, y)
                columns.append(tuple(v.double().cpu() for v in values))
    rows = [
        RobustnessRow(value, *(torch.cat(column) for column in zip(*columns)))
        for value, columns in zip([*scales, *shifts], found)
    ]
    return InputRobustness(rows[: len(scales)], rows[len(scales) :])


def _changed(x: Tensor, scale: float, shift: float, mean: list[float], std: list[float]) -> Tensor:
    """Returns normalised inputs whose pixels were scaled and shifted: of x * std + mean, normalised again."""
    if mean == [0.0] and std == [1.0]:
        return x * scale + shift
    channels = {"mean": len(mean), "std": len(std)}
    for name, count in channels.items():
        if count not in (1, x.shape[1]):
            raise InvalidValueError(f"{name} holds {count} numbers for {x.shape[1]} channels; expected one, or as many")
    around = (1, -1, *(1,) * (x.ndim - 2))
    m, s = (torch.tensor(v, dtype=x.dtype, device=x.device).reshape(around) for v in (mean, std))
    return ((x * s + m) * scale + shift - m) / s


def _numbers(name: str, given: Any) -> list[float]:
    try:
        numbers = [float(number) for number in given]
    except (TypeError, ValueError):
        raise InvalidTypeError(f"{name} is {given!r}; expected a sequence of numbers") from None
    if not all(map(math.isfinite, numbers)):
        raise InvalidValueError(f"{name} are {numbers}; expected finite numbers")
    return numbers
