"""What a network's decisions owe to its biases.

Source: Grabska-Barwinska, Measuring and improving the quality of visual explanations (2020), section 3 and appendix B.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError
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
from captum_extract_aggregate.bias_study.removal import count_biases, scale_biases


@dataclass(frozen=True)
class BiasReport:
    """Holds what `bias_report` found; `print` it. Tensors hold one value per image (float64; NaN: unknown or
    undefined)."""

    biases: int
    parameters: int
    top1: Tensor
    top1_without: Tensor
    top5: Tensor
    top5_without: Tensor
    same_decision: Tensor
    correlation: Tensor
    slope: Tensor
    intercept: Tensor

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.correlation)

    def save(self, path: str | Path) -> None:
        """Writes one row per image (CSV); what is unknown or undefined is left empty."""
        names = [field.name for field in fields(self)][2:]
        with Path(path).open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["image", *names])
            for i, row in enumerate(zip(*(getattr(self, name).tolist() for name in names))):
                table.writerow([i, *("" if math.isnan(value) else value for value in row)])

    def __str__(self) -> str:
        share = 100 * self.biases / max(1, self.parameters)
        undefined = int(self.same_decision.isnan().sum())
        told = f"   ({undefined} images left out: outputs that are not finite)" if undefined else ""
        lines = [
            f"{self.biases} biases beside {self.parameters} parameters ({share:.2f} %), {self.n} images",
            f"{'':24}{'with':>10}{'without':>10}",
            f"{'top-1':24}{_pair(self.top1, self.top1_without)}",
            f"{'top-5':24}{_pair(self.top5, self.top5_without)}",
            f"{'same decision':24}{'':10}{percent(self.same_decision):>10}{told}",
            "outputs without against with biases, image by image (mean ± standard deviation):",
            f"  correlation           {_spread(self.correlation)}",
            f"  slope                 {_spread(self.slope)}",
            f"  intercept             {_spread(self.intercept)}",
        ]
        return "\n".join(lines)


def bias_report(
    model: nn.Module, dataloader: Iterable[Any], without: nn.Module | None = None, show_progress: bool = True
) -> BiasReport:
    r"""Compares a network with itself without biases: accuracy, decisions, and outputs image by image.

    For each image, over the classes: Pearson's correlation of the outputs :math:`f` and, without biases,
    :math:`f^0`, and the least-squares line :math:`f^0 = \alpha f + c`.

    Args:
        model: a classifier in eval mode with outputs `N x classes`. It is left as it was.
        dataloader: batches of inputs, or tuples that begin with inputs and labels: class indices `N` (-1: unknown), or
            `N x classes` of zeros and ones, where every class of an image is right.
        without: the network to compare with, such as `decay_biases` gives; None: the model with its biases removed.
        show_progress: show a progress bar.

    Returns:
        `BiasReport`, which holds one value per image and prints as a table. `top5` is unknown with five classes or
        fewer; correlation and line are undefined for an image whose outputs are all equal.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> import captum_extract_aggregate as cea
        >>> scenes = cea.DigitScenes(16)
        >>> batch = torch.stack([x for x, _ in scenes]), torch.stack([t["classes"] for _, t in scenes])
        >>> report = cea.bias_study.bias_report(cea.load_scene_model("vgg"), [batch], show_progress=False)
        >>> report.biases, report.correlation.shape, bool(report.correlation.mean() > 0.5)
        (522, torch.Size([16]), True)

    Source: Grabska-Barwinska (2020), section 3 and appendix B.
    """
    check_eval(model)
    if without is not None:
        check_eval(without, "without")
    columns: list[tuple[Tensor, ...]] = []
    with Undo() as undo, undo:
        set_grad_mode(undo, False)
        for x, labels in batches_of(dataloader, model, show_progress, "Bias report"):
            f = outputs_of(model, x)
            f0 = _without(model, x) if without is None else outputs_of(without, x).to(f)
            if f0.shape != f.shape:
                raise InvalidValueError(
                    f"without gives {f0.shape[1]} classes, the model {f.shape[1]}; expected as many"
                )
            found = *(hits(y, labels, k) for k in (1, 5) for y in (f, f0)), same_decision(f, f0), *_line(f, f0)
            columns.append(tuple(column.double().cpu() for column in found))
    parameters = sum(p.numel() for p in model.parameters())
    return BiasReport(count_biases(model), parameters, *(torch.cat(column) for column in zip(*columns)))


def _without(model: nn.Module, x: Tensor) -> Tensor:
    with Undo() as undo, undo:
        scale_biases(undo, model, 0.0)
        return outputs_of(model, x)


def _line(f: Tensor, f0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns correlation, slope and intercept of each row of f0 against that of f."""
    a, b = f - f.mean(1, keepdim=True), f0 - f0.mean(1, keepdim=True)
    covariance = (a * b).sum(1)
    flat, flat0 = ((y == y[:, :1]).all(1) for y in (f, f0))  # whose deviations are nothing but rounding
    slope = (covariance / (a * a).sum(1)).masked_fill(flat, math.nan)
    correlation = (covariance / (a.norm(dim=1) * b.norm(dim=1))).masked_fill(flat | flat0, math.nan)
    return correlation, slope, f0.mean(1) - slope * f.mean(1)


def _pair(first: Tensor, second: Tensor) -> str:
    """Returns both means, over the images where both are known."""
    known = ~(first.isnan() | second.isnan())
    return f"{percent(first[known]):>10}{percent(second[known]):>10}"


def _spread(values: Tensor) -> str:
    defined = values[values.isfinite()]
    undefined = f" ({len(values) - len(defined)} undefined)" if len(defined) < len(values) else ""
    if not len(defined):
        return f"undefined{undefined}"
    spread = f" ± {defined.std():.3f}" if len(defined) > 1 else ""
    return f"{defined.mean():.3f}{spread}{undefined}"
