"""The maps of chosen images with their numbers, on one HTML page that needs nothing else: no network, no script."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate.evaluation.explained import MethodAtLayer
from captum_extract_aggregate.evaluation.grouping import methods_at_layers
from captum_extract_aggregate.evaluation.store import Results
from captum_extract_aggregate.visualization.figures import overlay
from captum_extract_aggregate.visualization.page_templates import render

_SIDE = 200  # pixels, of the longer side
_COLOURS = 128  # a thumbnail needs no more, and the page holds hundreds

Numbers = dict[tuple[int, int], dict[MethodAtLayer, list[tuple[str, float]]]]


@dataclass(frozen=True)
class Entry:
    """Holds one explained class of one image.

    Attributes:
        image, target: which. class_name: of the target.
        picture: `3 x H x W` in [0, 1].
        maps: by method and layer, each `1 x h x w` or `h x w` at any resolution.
    """

    image: int
    target: int
    class_name: str
    picture: Tensor
    maps: Mapping[str, Mapping[str, Tensor]]


def write_page(path: Path, results: Results, entries: Sequence[Entry]) -> None:
    """Writes the maps of some images, each with its numbers, as one HTML file.

    Args:
        path: the file.
        results: where names, scores and numbers come from; images that are not in them have none.
        entries: what to show, in this order.

    Raises:
        ValueError: for a picture that is not `3 x H x W`.
    """
    sections = sections_of(results, entries)
    text = render(
        __package__,
        "maps.html",
        title=results.plan.title or "Evaluation",
        plan=results.plan,
        incomplete=_incomplete(results),
        sections=sections,
    )
    path.write_text(text, encoding="utf-8", newline="\n")


def sections_of(results: Results, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Returns what pages show of each entry; arguments and errors as of `write_page`."""
    for entry in entries:
        if entry.picture.ndim != 3 or entry.picture.shape[0] != 3:
            raise InvalidValueError(f"picture has shape {tuple(entry.picture.shape)}; expected 3 x H x W, in [0, 1]")
    numbers, names = _numbers(results, entries), {row.image: row.name for row in results.images()}
    return [_section(entry, results, names, numbers) for entry in entries]


def _incomplete(results: Results) -> tuple[str, str] | None:
    """Returns what is missing, and what that means."""
    looked_at = len(results.images())
    if looked_at < results.expected:
        return f"{looked_at} of {results.expected} images were looked at.", " The others have no numbers."
    if not results.complete:
        return f"{results.lacking} batches of images lack some numbers.", ""
    return None


def _section(entry: Entry, results: Results, names: Mapping[int, str], numbers: Numbers) -> dict[str, Any]:
    """Returns what the template shows of an entry."""
    layers = list(dict.fromkeys(layer for by_layer in entry.maps.values() for layer in by_layer))
    own = numbers.get((entry.image, entry.target), {})
    rows = []
    for method, by_layer in entry.maps.items():
        signed = any(bool((m < 0).any()) for m in by_layer.values())
        rows.append((method, [_cell(entry, MethodAtLayer(method, layer), signed, own) for layer in layers]))
    name = names.get(entry.image, "")
    return {
        "heading": f"Image {entry.image}{f' ({name})' if name else ''}: class {entry.class_name}",
        "told": _told(entry, results),
        "image": entry.image,
        "picture": _image(_thumbnail(entry.picture), f"Image {entry.image}"),
        "layers": layers,
        "rows": rows,
    }


def _told(entry: Entry, results: Results) -> str:
    """Returns the class, its score, and whether it is in the image."""
    name = "" if entry.class_name == str(entry.target) else f", {entry.class_name}"
    told = [f"Class {entry.target}{name}"]
    target = results.targets().get((entry.image, entry.target))
    if target is not None:
        told.append(f"score {target.score:.3f}")
        told += ["in the image"] if target.present else []
        told += ["difficult"] if target.difficult else []
        told += {"best": ["its highest score"], "worst": ["its lowest score"]}.get(target.role, [])
    return "; ".join(told) + "."


def _cell(
    entry: Entry, place: MethodAtLayer, signed: bool, numbers: Mapping[MethodAtLayer, list[tuple[str, float]]]
) -> dict[str, Any] | None:
    map_ = entry.maps[place.method].get(place.layer)
    if map_ is None:
        return None
    alt = f"{place.method} at {place.layer}, for class {entry.class_name} in image {entry.image}"
    listed = [(name, _number(value)) for name, value in numbers.get(place, [])]
    return {"picture": _image(_overlaid(entry.picture, map_, signed), alt), "numbers": listed}


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4g}"


def _numbers(results: Results, entries: Sequence[Entry]) -> Numbers:
    """Returns what methods are compared by: numbers by image and class, then method and layer."""
    wanted = {(entry.image, entry.target) for entry in entries}
    known = set(methods_at_layers(results))
    found: Numbers = {pair: {} for pair in wanted}
    for measure in results.plan.measures:
        label, interpretation = measure.label or measure.measure, results.interpretation(measure)
        if not interpretation.of_own_map:
            continue
        for detail in interpretation.compared([detail for name, detail in results.measures() if name == label]):
            for row in results.rows(label, detail):
                pair, place = (row.image, row.target), MethodAtLayer(row.method, row.layer)
                if pair in wanted and place in known:
                    found[pair].setdefault(place, []).append((f"{label} {detail}".rstrip(), row.value))
    return found


# --- Pictures --------------------------------------------------------------------------------------------------------


def _image(picture: Image.Image, alt: str) -> dict[str, Any]:
    file = io.BytesIO()
    picture.convert("RGB").quantize(_COLOURS).save(file, format="PNG", optimize=True)
    width, height = picture.size
    return {"width": width, "height": height, "alt": alt, "data": base64.b64encode(file.getvalue()).decode("ascii")}


def _size(picture: Tensor) -> tuple[int, int]:
    """Returns the width and height of a thumbnail."""
    height, width = picture.shape[-2:]
    scale = _SIDE / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _thumbnail(picture: Tensor) -> Image.Image:
    full = to_pil_image(picture.detach().float().cpu().clamp(0, 1))
    return full.resize(_size(picture), Image.Resampling.LANCZOS)


def _overlaid(picture: Tensor, map_: Tensor, signed: bool) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = _size(picture)
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    overlay(axes, picture, map_, "all" if signed else "positive")
    axes.set_aspect("auto")  # the rounded size, to its last pixel
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
