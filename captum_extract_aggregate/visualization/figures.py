"""Pictures of maps: overlays on the image, and grids of methods, layers, classes or stages of randomisation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from captum.attr import LayerAttribution
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate._common.tensors import same_everywhere
from captum_extract_aggregate.visualization.blending import OPACITY, SIGNS, blended, colours_of, opacities, paled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCALINGS = {
    "map": "each map is scaled by its own largest magnitude",
    "row": "the maps of a row share one scale",
    "column": "the maps of a column share one scale",
    "all": "all maps share one scale",
}
_ONLY = {"positive": "positive values alone, ", "negative": "negative values alone, ", "absolute_value": "magnitudes, "}
_BLENDS = ("magnitude", "uniform")
_CELL = 2.1  # inches
_LETTERS = 18  # of the line below, to an inch
Rows: TypeAlias = Mapping[str, Mapping[str, Tensor]]


def overlay(
    axes: Axes,
    image: Tensor,
    map_: Tensor,
    sign: str | None = None,
    scale: float | None = None,
    outlier_perc: float = 0,
    alpha: float | None = None,
    cmap: Any = None,
    blend: Literal["magnitude", "uniform"] = "magnitude",
) -> None:
    """Draws a map over its image, whatever the map: of zeros, of one sign, with NaN.

    A map that is the same everywhere is drawn with these words.

    Args:
        axes: matplotlib axes to draw on.
        image: `3 x H x W` (or `1 x H x W`) in [0, 1], or a batch of one.
        map_: `1 x h x w`, `h x w`, or `K x h x w`, whose channels are summed (as Captum does), or a batch of one such
            map, at any resolution: it is upsampled bilinearly.
        sign: what is shown: `"all"`, `"positive"`, `"negative"` or `"absolute_value"`, as in Captum; None: `"all"` if
            the map has negative values, else `"positive"`.
        scale: the magnitude at the end of the colours; None: the map's own (`scale_of`).
        outlier_perc: how much of the map's sum lies beyond the end of the colours, as in Captum (whose default is 2).
        alpha: opacity of the map, at its largest magnitude (None: 0.9) or, if `"uniform"`, everywhere (None: 0.65).
        cmap: a matplotlib colour map; None: purple to orange for `"all"`, else `"inferno"`.
        blend: `"magnitude"`: the photograph in pale colours, covered the more the larger the map is; `"uniform"`: a
            grey photograph under one opacity, as Captum's `visualize_image_attr` draws a `"blended_heat_map"`.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> from captum_extract_aggregate.visualization.figures import overlay
        >>> axes = Figure().subplots()
        >>> overlay(axes, torch.rand(3, 8, 8), torch.zeros(1, 2, 2))  # which Captum refuses
        >>> axes.images[-1].get_array().shape, axes.texts[0].get_text()
        ((8, 8), '0 everywhere')
    """
    if blend not in _BLENDS:
        raise InvalidValueError(unknown_name("blend", blend, _BLENDS))
    picture = _pixels(image)
    sign = _sign_of(map_) if sign is None else _checked_sign(sign)
    values = _shown(_at_size(map_, picture.shape[:2]), sign)
    end = _end(scale_of([map_], sign, outlier_perc) if scale is None else float(scale))
    if blend == "uniform":
        axes.imshow(picture.mean(2), cmap="gray", vmin=0, vmax=1)
        covered: Any = 0.65 if alpha is None else alpha
    else:
        axes.imshow(paled(picture))
        covered = opacities(values, end, OPACITY if alpha is None else alpha)
    low = -end if sign == "all" else 0
    axes.imshow(values, cmap=cmap or colours_of(sign), vmin=low, vmax=end, alpha=covered)
    axes.set_axis_off()
    _say_constant(axes, map_)


def overlaid(
    image: Tensor, map_: Tensor, sign: str | None = None, alpha: float | None = None, cmap: Any = None
) -> np.ndarray:
    """Returns the picture that `overlay` draws, pixel for pixel of the image: `H x W x 3`, bytes.

    Args:
        image, map_, sign, alpha, cmap: as for `overlay`.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.visualization import overlaid
        >>> overlaid(torch.rand(3, 480, 640), torch.rand(1, 7, 7)).shape
        (480, 640, 3)
    """
    picture = _pixels(image)
    sign = _sign_of(map_) if sign is None else _checked_sign(sign)
    values = _shown(_at_size(map_, picture.shape[:2]), sign)
    opacity = OPACITY if alpha is None else alpha
    pixels = blended(picture, values, _end(scale_of([map_], sign)), sign, opacity, cmap)
    return (255 * pixels).round().clip(0, 255).astype(np.uint8)  # type: ignore[no-any-return]


def _end(scale: float) -> float:
    return scale if math.isfinite(scale) and scale > 0 else 1.0


def _say_constant(axes: Axes, map_: Tensor) -> None:
    """Writes on a map that is the same everywhere that it is."""
    values = _plane(map_)
    is_zero = not values.any()
    if values.numel() < 2 or not (is_zero or same_everywhere(values[None, None])):
        return
    words = "0 everywhere" if is_zero else "the same everywhere"
    box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 2}
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", fontsize=8, bbox=box)


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
    alpha: float | None = None,
    cmap: Any = None,
    missing: str = "",
) -> Figure:
    """Returns one overlay per row and column, beside the image, with a colour bar for each row; how the maps are scaled
    is written below them.

    Rows of one map that stands in no column of the others, such as methods that join all layers, share a row.

    Args:
        image: `3 x H x W` in [0, 1]; or one for each row, by the row's name.
        maps: by row and column, each `1 x h x w`, `h x w` or `K x h x w`; a row may lack columns. See
            `maps_by_layer`, `maps_by_class` and `maps_by_stage` of `captum_extract_aggregate.visualization`.
        title: above all, such as the class and its score.
        boxes: `D x 4` rectangles `x0, y0, x1, y1` to draw on the image.
        scaling: which maps share one scale: `"map"` (none), `"row"`, `"column"` or `"all"`.
        sign, outlier_perc, alpha, cmap: as for `overlay`; sign None: `"all"` for a row if one of its maps, or of those
            that they share a scale with, has negative values, else `"positive"`.
        missing: what stands where a row lacks a column.

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
        >>> [axes.get_title() for axes in figure.axes[:3]]
        ['input', 'features.8', 'features.18']
    """
    if scaling not in SCALINGS:
        raise InvalidValueError(unknown_name("scaling", scaling, SCALINGS))
    if not isinstance(maps, Mapping) or not maps or not all(isinstance(r, Mapping) and r for r in maps.values()):
        raise InvalidValueError(
            "maps is empty or no mapping of mappings; expected maps by row and column: {row: {column: map}}"
        )
    images = image if isinstance(image, Mapping) else dict.fromkeys(maps, image)
    lines = _lines(maps, packs=not isinstance(image, Mapping))
    figure, cells = _cells(len(lines), max(len(line.cells) for line in lines) + 1)
    signs = set()
    for i, line in enumerate(lines):
        _draw_input(cells[i][0], images, line.row, i == 0, boxes)
        height, width = _pixels(images[line.row]).shape[:2]
        for axes in cells[i][1:]:
            axes.set_axis_off()
            axes.set_box_aspect(height / width)  # also where there is no map, so that titles stand in one line
        own = [cell for cell in line.cells if cell is not None]
        groups = {cell: _sharing(maps, cell.row, cell.column, scaling) for cell in own}
        shown = sign or ("all" if any(_is_signed(m) for group in groups.values() for m in group) else "positive")
        signs.add(shown)
        for cell, axes in zip(line.cells, cells[i][1:]):
            if cell is None:
                axes.text(0.5, 0.5, missing, ha="center", va="center", fontsize=7, color="gray", parse_math=False)
            else:
                end = scale_of(groups[cell], shown, outlier_perc)
                overlay(axes, images[cell.row], maps[cell.row][cell.column], shown, end, alpha=alpha, cmap=cmap)
        for above, axes in zip(line.titles, cells[i][1:]):
            axes.set_title(above, fontsize=9, parse_math=False)
        _label(cells[i][1], line.label)
        same_scale = scale_of(groups[own[0]], shown, outlier_perc) if scaling in ("row", "all") else None
        _colour_bar(figure, cells[i], shown, same_scale, cmap)
    figure.suptitle(title, fontsize=11, parse_math=False)  # a $ in a name is no formula
    cut = f" after the brightest {outlier_perc:g} % of the sum" if outlier_perc else ""
    below = f"{SCALINGS[scaling]}{cut}; {_legend(signs, sign)}"
    fits = len(below) < _LETTERS * figure.get_figwidth()
    figure.supxlabel(below if fits else below.replace("; ", ";\n"), fontsize=7)
    return figure


class _Cell(NamedTuple):
    """Tells which map stands in a cell."""

    row: str
    column: str


class _Line(NamedTuple):
    """Holds the cells of one row of a grid, None where there is no map, and what stands above them."""

    label: str
    row: str  # whose image stands before it
    cells: list[_Cell | None]
    titles: list[str]


def _lines(maps: Rows, packs: bool) -> list[_Line]:
    """Returns the rows of the grid; rows of one map that stands in no column of the others share rows, if `packs`."""
    several = {column for own in maps.values() if len(own) > 1 for column in own}
    alone = [row for row, own in maps.items() if packs and several and len(own) == 1 and several.isdisjoint(own)]
    rows = [row for row in maps if row not in alone]
    longest_first = sorted(rows, key=lambda row: -len(maps[row]))  # whose columns are in the order of the layers
    columns = list(dict.fromkeys(column for row in longest_first for column in maps[row]))
    lines = [
        _Line(row, row, [_Cell(row, c) if c in maps[row] else None for c in columns], [""] * len(columns))
        for row in rows
    ]
    if lines:
        lines[0] = lines[0]._replace(titles=[_wrapped(column) for column in columns])
    single = [_Cell(row, column) for row in alone for column in maps[row]]
    for part in (single[i : i + len(columns)] for i in range(0, len(single), max(1, len(columns)))):
        lines += [_Line("", part[0].row, list(part), [f"{cell.row}\n{cell.column}" for cell in part])]
    return lines


def _colour_bar(figure: Figure, cells: Any, sign: str, scale: float | None, cmap: Any) -> None:
    """Draws what the colours of a row mean: its scale, where its maps share one, else words."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    colours = ScalarMappable(Normalize(-1 if sign == "all" else 0, 1), cmap or colours_of(sign))
    largest = "largest" if scale is None else f"{scale:.3g}"
    bar = figure.colorbar(colours, ax=list(cells), aspect=22, shrink=0.85, pad=0.01)
    if sign == "all":
        smallest = "against" if scale is None else f"{-scale:.3g}"
        bar.set_ticks([-1, 0, 1], labels=[smallest, "0", "for" if scale is None else largest], fontsize=7)
    else:
        bar.set_ticks([0, 1], labels=["0", largest], fontsize=7)


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
    if sign not in SIGNS:
        raise InvalidValueError(unknown_name("sign", sign, SIGNS))
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
    if not row:
        return
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
