"""Pictures of maps: overlays on the image, in grids of methods and layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from captum.attr import LayerAttribution
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POSITIVE, _SIGNED = "inferno", "PuOr_r"  # both readable with any colour vision
_CELL = 2.1  # inches


def overlay(axes: Axes, image: Tensor, map_: Tensor, signed: bool | None = None, alpha: float = 0.65) -> None:
    """Draws a map over its image, scaled by its own largest magnitude.

    Args:
        axes: matplotlib axes to draw on.
        image: `3 x H x W` in [0, 1].
        map_: `1 x h x w` or `h x w` at any resolution, upsampled bilinearly.
        signed: use the diverging colour map centred at 0 (purple against, orange for the class) rather than one from
            dark (0) to bright; None: if the map has negative values.
        alpha: opacity of the map.
    """
    height, width = image.shape[-2:]
    values = map_.detach().float().cpu().reshape(1, 1, *map_.shape[-2:])
    values = LayerAttribution.interpolate(values, (height, width), "bilinear")[0, 0]
    largest = values.abs().max().item()
    top = largest if largest > 0 and largest < float("inf") else 1.0  # also of a zero map, or one of NaN
    signed = _is_signed(map_) if signed is None else signed
    axes.imshow(_pixels(image).mean(-1), cmap="gray", vmin=0, vmax=1)
    axes.imshow(
        values.numpy(), cmap=_SIGNED if signed else _POSITIVE, vmin=-top if signed else 0, vmax=top, alpha=alpha
    )
    axes.set_axis_off()


def grid(
    image: Tensor, maps: Mapping[str, Mapping[str, Tensor]], title: str = "", boxes: Tensor | None = None
) -> Figure:
    """One overlay per method and layer, beside the image; returns the matplotlib figure (`figure.savefig(path)`).

    Args:
        image: `3 x H x W` in [0, 1].
        maps: by row (method) and column (layer), each `1 x h x w` or `h x w`; a row may lack columns.
        title: above all, such as the class and its score.
        boxes: `D x 4` rectangles `x0, y0, x1, y1` to draw on the image.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = list(dict.fromkeys(column for by_layer in maps.values() for column in by_layer))
    rows = len(maps)
    figure = Figure(figsize=(_CELL * (len(columns) + 1) + 0.4, _CELL * rows + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    cells: Any = figure.subplots(rows, len(columns) + 1, squeeze=False)
    for row, (method, by_layer) in enumerate(maps.items()):
        signed = any(map(_is_signed, by_layer.values()))
        first = cells[row][0]
        first.set_axis_off()
        if row == 0:
            first.imshow(_pixels(image))
            first.set_title("input", fontsize=9)
            _draw_boxes(first, boxes)
        for column, name in enumerate(columns, start=1):
            if name in by_layer:
                overlay(cells[row][column], image, by_layer[name], signed)
            cells[row][column].set_axis_off()
            if row == 0:
                cells[row][column].set_title(_wrapped(name), fontsize=9)
        cells[row][1].text(
            -0.06, 0.5, method, transform=cells[row][1].transAxes, rotation=90, ha="right", va="center", fontsize=9
        )
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(
        "each map is scaled by its own largest magnitude; dark to bright: 0 to largest; "
        "signed maps: purple against, orange for the class",
        fontsize=7,
    )
    return figure


def _pixels(image: Tensor) -> np.ndarray:
    return image.detach().float().cpu().permute(1, 2, 0).clamp(0, 1).numpy()


def _is_signed(map_: Tensor) -> bool:
    return bool((map_ < 0).any())


def _wrapped(name: str) -> str:
    """Long dotted names in two lines."""
    head, dot, tail = name.rpartition(".")
    return f"{head}{dot}\n{tail}" if len(name) > 20 and dot else name


def _draw_boxes(axes: Axes, boxes: Tensor | None) -> None:
    from matplotlib.patches import Rectangle

    for x0, y0, x1, y1 in torch.empty(0, 4).tolist() if boxes is None else boxes.tolist():
        axes.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor="white", linewidth=1.5))
