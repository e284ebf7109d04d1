"""Pictures of maps: overlays on the image, and grids of methods, layers, classes or stages of randomisation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from captum.attr import LayerAttribution
from captum.attr import visualization as captums
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Readable with any colour vision: from dark to bright, or purple against and orange for the class.
COLOURS = {"all": "PuOr_r", "positive": "inferno", "negative": "inferno", "absolute_value": "inferno"}
SCALINGS = {
    "map": "each map is scaled by its own largest magnitude",
    "row": "the maps of a row share one scale",
    "column": "the maps of a column share one scale",
    "all": "all maps share one scale",
}
_ONLY = {"positive": "positive values alone, ", "negative": "negative values alone, ", "absolute_value": "magnitudes, "}
_CELL = 2.1  # inches
Rows: TypeAlias = Mapping[str, Mapping[str, Tensor]]


def overlay(
    axes: Axes,
    image: Tensor,
    map_: Tensor,
    sign: str | None = None,
    scale: float | None = None,
    outlier_perc: float = 0,
    alpha: float = 0.65,
    cmap: Any = None,
) -> None:
    """Draws a map over its image, by Captum's `visualize_image_attr`, but for any map: of zeros, of one sign, with NaN.

    Args:
        axes: matplotlib axes to draw on.
        image: `3 x H x W` (or `1 x H x W`) in [0, 1], or a batch of one.
        map_: `1 x h x w`, `h x w`, or `K x h x w`, whose channels are summed (as Captum does), or a batch of one such
            map, at any resolution: it is upsampled bilinearly.
        sign: what is shown: `"all"`, `"positive"`, `"negative"` or `"absolute_value"`, as in Captum; None: `"all"` if
            the map has negative values, else `"positive"`.
        scale: the magnitude at the end of the colours; None: the map's own (`scale_of`).
        outlier_perc: how much of the map's sum lies beyond the end of the colours, as in Captum (whose default is 2).
        alpha: opacity of the map.
        cmap: a matplotlib colour map; None: `COLOURS[sign]`.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> from captum_extract_aggregate.visualization.figures import overlay
        >>> axes = Figure().subplots()
        >>> overlay(axes, torch.rand(3, 8, 8), torch.zeros(1, 2, 2))  # which Captum refuses
        >>> axes.images[-1].get_array().shape
        (8, 8)
    """
    picture = _pixels(image)
    sign = _sign_of(map_) if sign is None else _checked_sign(sign)
    values = _shown(_at_size(map_, picture.shape[:2]), sign)
    end = scale_of([map_], sign, outlier_perc) if scale is None else float(scale)
    end = end if math.isfinite(end) and end > 0 else 1.0
    captums.visualize_image_attr(
        np.ones((*values.shape, 1)),  # the values follow: of some Captum makes none
        picture,
        "blended_heat_map",
        "all" if sign == "all" else "absolute_value",
        (axes.figure, axes),
        outlier_perc=0,
        cmap=cmap or COLOURS[sign],
        alpha_overlay=alpha,
        use_pyplot=False,
    )
    ground, drawn = axes.images[-2:]
    ground.set_clim(0, 255 if ground.get_array().max() > 1 else 1)  # type: ignore[union-attr]
    drawn.set_data(values)
    drawn.set_clim(-end if sign == "all" else 0, end)
    axes.set_axis_off()


def scale_of(maps: Iterable[Tensor], sign: str = "all", outlier_perc: float = 0) -> float:
    """Returns the largest magnitude of the maps, or the one beyond which `outlier_perc` percent of their sum lie; 0 for
    none.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.visualization.figures import scale_of
        >>> scale_of([torch.tensor([[1.0, -3.0]]), torch.tensor([[2.0, 0.5]])])
        3.0
    """
    _checked_sign(sign)
    if not 0 <= outlier_perc < 100:
        raise InvalidValueError(f"outlier_perc is {outlier_perc!r}; expected a percentage from 0, below 100")
    shown = [np.abs(_shown(_plane(m).double().cpu().numpy(), sign)).ravel() for m in maps]
    values = np.sort(np.concatenate([v[np.isfinite(v)] for v in shown]) if shown else np.zeros(0))
    if not values.size:
        return 0.0
    sums = np.cumsum(values)
    return (
        float(values[np.searchsorted(sums, sums[-1] * (1 - outlier_perc / 100))]) if outlier_perc else float(values[-1])
    )


def grid(
    image: Tensor | Mapping[str, Tensor],
    maps: Rows,
    title: str = "",
    boxes: Tensor | None = None,
    scaling: str = "map",
    sign: str | None = None,
    outlier_perc: float = 0,
    alpha: float = 0.65,
) -> Figure:
    """Returns one overlay per row and column, beside the image; how the maps are scaled is written below them.

    Args:
        image: `3 x H x W` in [0, 1]; or one for each row, by the row's name.
        maps: by row and column, each `1 x h x w`, `h x w` or `K x h x w`; a row may lack columns. See
            `maps_by_layer`, `maps_by_class` and `maps_by_stage` of `captum_extract_aggregate.visualization`.
        title: above all, such as the class and its score.
        boxes: `D x 4` rectangles `x0, y0, x1, y1` to draw on the image.
        scaling: which maps share one scale: `"map"` (none), `"row"`, `"column"` or `"all"`.
        sign, outlier_perc, alpha: as for `overlay`; sign None: `"all"` for a map if it, or one that it shares its scale
            with, has negative values, else `"positive"`.

    Returns:
        The matplotlib figure: `figure.savefig(path)`; a notebook shows it.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.visualization.rows import maps_by_layer
        >>> from captum_extract_aggregate.visualization.figures import grid
        >>> model, x = cea.load_scene_model("vgg"), cea.DigitScenes(1)[0][0][None]
        >>> methods = {"NormGrad": cea.NormGrad(model, ["features.8", "features.18"])}
        >>> figure = grid(x[0], maps_by_layer(methods, x, target=3), "class 3")
        >>> [axes.get_title() for axes in figure.axes]
        ['input', 'features.8', 'features.18']
    """
    if scaling not in SCALINGS:
        raise InvalidValueError(unknown_name("scaling", scaling, SCALINGS))
    if not isinstance(maps, Mapping) or not maps or not all(isinstance(r, Mapping) and r for r in maps.values()):
        raise InvalidValueError(
            "maps is empty or no mapping of mappings; expected maps by row and column: {row: {column: map}}"
        )
    columns = list(dict.fromkeys(column for row in maps.values() for column in row))
    signs = set()
    images = image if isinstance(image, Mapping) else dict.fromkeys(maps, image)
    figure, cells = _cells(len(maps), len(columns) + 1)
    for i, (row, own) in enumerate(maps.items()):
        _draw_input(cells[i][0], images, row, i == 0, boxes)
        for column, axes in zip(columns, cells[i][1:]):
            axes.set_axis_off()
            if column in own:
                group = _sharing(maps, row, column, scaling)
                shown = sign or ("all" if any(_is_signed(m) for m in group) else "positive")
                signs.add(shown)
                overlay(axes, images[row], own[column], shown, scale_of(group, shown, outlier_perc), alpha=alpha)
            if i == 0:
                axes.set_title(_wrapped(column), fontsize=9, parse_math=False)
        _label(cells[i][1], row)
    figure.suptitle(title, fontsize=11, parse_math=False)  # a $ in a name is no formula
    cut = f" after the brightest {outlier_perc:g} % of the sum" if outlier_perc else ""
    figure.supxlabel(f"{SCALINGS[scaling]}{cut}; {_legend(signs, sign)}", fontsize=7)
    return figure


def _sharing(maps: Rows, row: str, column: str, scaling: str) -> list[Tensor]:
    """Returns the maps that one map shares its scale with, itself included."""
    return [
        m
        for r, own in maps.items()
        for c, m in own.items()
        if (r == row or scaling in ("column", "all")) and (c == column or scaling in ("row", "all"))
    ]


def _legend(signs: set[str], asked: str | None) -> str:
    """Returns what the colours mean."""
    parts = []
    if signs - {"all"}:
        parts.append(_ONLY.get(asked or "", "") + "dark to bright: 0 to largest")
    if "all" in signs:
        parts.append("signed maps: purple against, orange for the class")
    return "; ".join(parts)


# --- Values ----------------------------------------------------------------------------------------------------------


def _plane(map_: Tensor) -> Tensor:
    """Returns `h x w`, channels summed."""
    map_ = _unbatched(map_)
    if not isinstance(map_, Tensor) or map_.ndim not in (2, 3):
        got = f"a tensor {tuple(map_.shape)}" if isinstance(map_, Tensor) else f"a {type(map_).__name__}"
        raise InvalidTypeError(f"a map is {got}; expected one example's, 1 x h x w, h x w or K x h x w (maps[0], say)")
    values = map_.detach().float()
    return values.sum(0) if values.ndim == 3 else values


def _unbatched(tensor: Tensor) -> Tensor:
    """Returns what a batch of one holds."""
    return tensor[0] if isinstance(tensor, Tensor) and tensor.ndim == 4 and len(tensor) == 1 else tensor


def _at_size(map_: Tensor, size: tuple[int, int]) -> np.ndarray:
    if isinstance(map_, Tensor) and map_.ndim == 2 and map_.shape[0] == 1 < size[0]:
        raise InvalidValueError(
            f"a map is {tuple(map_.shape)}, one row, or the map of a sequence, for an image of {size[0]} x {size[1]}; "
            "expected one whose positions are the image's"
        )
    values = LayerAttribution.interpolate(_plane(map_)[None, None], size, "bilinear")[0, 0]
    return np.where(np.isfinite(values := values.cpu().numpy()), values, np.nan)


def _shown(values: np.ndarray, sign: str) -> np.ndarray:
    """Returns the part of a map that a sign shows."""
    if sign == "positive":
        return np.maximum(values, 0)
    if sign == "negative":
        return np.maximum(-values, 0)
    return np.abs(values) if sign == "absolute_value" else values


def _checked_sign(sign: str) -> str:
    if sign not in COLOURS:
        raise InvalidValueError(unknown_name("sign", sign, COLOURS))
    return sign


def _sign_of(map_: Tensor) -> str:
    return "all" if _is_signed(map_) else "positive"


def _is_signed(map_: Tensor) -> bool:
    return bool((_plane(map_) < 0).any())


def _pixels(image: Tensor) -> np.ndarray:
    """Returns `H x W x 3` from 0 to 1."""
    image = _unbatched(image)
    is_image = isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] in (1, 3)
    if not is_image or not image.is_floating_point():
        got = f"a {image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else f"a {type(image).__name__}"
        raise InvalidTypeError(f"image is {got}; expected one image, 3 x H x W in [0, 1]")
    return image.detach().float().cpu().expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1).numpy()


# --- Drawing ---------------------------------------------------------------------------------------------------------


def _cells(rows: int, columns: int) -> tuple[Figure, Any]:
    from captum_extract_aggregate._common.notebook_figure import NotebookFigure

    figure = NotebookFigure(figsize=(_CELL * columns + 0.4, _CELL * rows + 0.9), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _draw_input(axes: Axes, images: Mapping[str, Tensor], row: str, is_first: bool, boxes: Tensor | None) -> None:
    """Draws the image of a row, unless it is the one above."""
    axes.set_axis_off()
    if row not in images:
        raise InvalidValueError(unknown_name("image of the row", row, images))
    if is_first or len({id(image) for image in images.values()}) > 1:
        axes.imshow(_pixels(images[row]))
    if is_first:
        axes.set_title("input", fontsize=9)
        _draw_boxes(axes, boxes)


def _label(axes: Axes, row: str) -> None:
    place: Any = {"transform": axes.transAxes, "ha": "right", "va": "center"}
    axes.text(-0.06, 0.5, row, rotation=90, fontsize=9, parse_math=False, **place)


def _wrapped(name: str) -> str:
    """Returns a long dotted name in two lines."""
    head, dot, tail = name.rpartition(".")
    return f"{head}{dot}\n{tail}" if len(name) > 20 and dot else name


def _draw_boxes(axes: Axes, boxes: Tensor | None) -> None:
    from matplotlib.patches import Rectangle

    found = torch.as_tensor(torch.empty(0, 4) if boxes is None else boxes)
    if found.ndim != 2 or found.shape[1] != 4:
        raise InvalidValueError(f"boxes have shape {tuple(found.shape)}; expected D x 4, x0, y0, x1, y1")
    for x0, y0, x1, y1 in found.tolist():
        axes.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor="white", linewidth=1.5))
