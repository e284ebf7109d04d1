"""The maps of chosen images with their numbers, on one HTML page that needs nothing else: no network, no script."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate.evaluation.statistics import BETTER, Place, places
from captum_extract_aggregate.evaluation.store import Results
from captum_extract_aggregate.visualization.figures import overlay

_SIDE = 200  # pixels, of the longer side
_COLOURS = 128  # a thumbnail needs no more, and the page holds hundreds

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.45 system-ui, sans-serif; margin: 1.5rem; background: Canvas; color: CanvasText; }
section { border-top: 1px solid GrayText; margin-top: 2rem; }
.maps { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .3rem .5rem; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
th { min-width: 7rem; max-width: 14rem; }
figure { margin: 0; width: 200px; }
figcaption ul { margin: .2rem 0 0; padding: 0; list-style: none; font-size: .8rem; }
img { display: block; max-width: 200px; height: auto; }
"""

Numbers = dict[tuple[int, int], dict[Place, list[tuple[str, float]]]]


@dataclass(frozen=True)
class Entry:
    """One explained class of one image.

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
    for entry in entries:
        if entry.picture.ndim != 3 or entry.picture.shape[0] != 3:
            raise InvalidValueError(f"picture has shape {tuple(entry.picture.shape)}; expected 3 x H x W, in [0, 1]")
    title = escape(results.plan.title or "Evaluation")
    numbers, names = _numbers(results, entries), {row.image: row.name for row in results.images()}
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}: maps</title>",
        f"<style>{_STYLE}</style>",
        "</head>",
        "<body>",
        "<main>",
        f"<h1>{title}: maps</h1>",
        *_introduction(results, len(entries)),
        *_contents(entries, names),
    ]
    for i, entry in enumerate(entries):
        parts += _section(i, entry, results, names, numbers)
    text = "\n".join([*parts, "</main>", "</body>", "</html>"]) + "\n"
    path.write_text(text, encoding="utf-8", newline="\n")


def _introduction(results: Results, count: int) -> Iterator[str]:
    looked_at = len(results.images())
    yield f"<p>{escape(results.plan.model.name)} on {escape(results.plan.data.kind)}, plan {results.plan.hash()}.</p>"
    if looked_at < results.expected:
        yield (
            f"<p><strong>Incomplete: {looked_at} of {results.expected} images were looked at.</strong> "
            "The others have no numbers.</p>"
        )
    elif not results.complete:
        yield f"<p><strong>Incomplete: {results.lacking} batches of images lack some numbers.</strong></p>"
    yield (
        "<p>Each map is scaled by its own largest magnitude: dark is 0, bright the largest. Signed maps: purple speaks "
        "against the class, orange for it. Numbers belong to the one image and class; undefined ones say so.</p>"
    )
    if not count:
        yield "<p>No images were chosen.</p>"


def _contents(entries: Sequence[Entry], names: Mapping[int, str]) -> Iterator[str]:
    if len(entries) > 1:
        yield '<nav aria-label="Images"><ul>'
        for i, entry in enumerate(entries):
            yield f'<li><a href="#entry-{i}">{_heading(entry, names)}</a></li>'
        yield "</ul></nav>"


def _heading(entry: Entry, names: Mapping[int, str]) -> str:
    name = names.get(entry.image, "")
    return f"Image {entry.image}{f' ({escape(name)})' if name else ''}: class {escape(entry.class_name)}"


def _section(i: int, entry: Entry, results: Results, names: Mapping[int, str], numbers: Numbers) -> Iterator[str]:
    layers = list(dict.fromkeys(layer for by_layer in entry.maps.values() for layer in by_layer))
    own = numbers.get((entry.image, entry.target), {})
    yield f'<section id="entry-{i}" aria-labelledby="heading-{i}">'
    yield f'<h2 id="heading-{i}">{_heading(entry, names)}</h2>'
    yield f"<p>{_told(entry, results)}</p>"
    yield _image(_thumbnail(entry.picture), f"Image {entry.image}")
    yield f'<div class="maps" tabindex="0" role="region" aria-label="Maps of image {entry.image}">'
    yield "<table>"
    yield f"<thead><tr><td></td>{''.join(f'<th scope=col>{escape(layer)}</th>' for layer in layers)}</tr></thead>"
    yield "<tbody>"
    for method, by_layer in entry.maps.items():
        yield f"<tr><th scope=row>{escape(method)}</th>"
        signed = any(bool((m < 0).any()) for m in by_layer.values())
        for layer in layers:
            yield f"<td>{_cell(entry, Place(method, layer), signed, own)}</td>"
        yield "</tr>"
    yield "</tbody></table></div></section>"


def _told(entry: Entry, results: Results) -> str:
    """The class, its score, and whether it is in the image."""
    name = "" if entry.class_name == str(entry.target) else f", {escape(entry.class_name)}"
    told = [f"Class {entry.target}{name}"]
    target = results.targets().get((entry.image, entry.target))
    if target is not None:
        told.append(f"score {target.score:.3f}")
        told += ["in the image"] if target.present else []
        told += ["difficult"] if target.difficult else []
        told += {"best": ["its highest score"], "worst": ["its lowest score"]}.get(target.role, [])
    return "; ".join(told) + "."


def _cell(entry: Entry, place: Place, signed: bool, numbers: Mapping[Place, list[tuple[str, float]]]) -> str:
    map_ = entry.maps[place.method].get(place.layer)
    if map_ is None:
        return ""
    alt = f"{place.method} at {place.layer}, for class {entry.class_name} in image {entry.image}"
    listed = "".join(f"<li>{escape(name)} {_number(value)}</li>" for name, value in numbers.get(place, []))
    caption = f"<figcaption><ul>{listed}</ul></figcaption>" if listed else ""
    return f"<figure>{_image(_overlaid(entry.picture, map_, signed), alt)}{caption}</figure>"


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4g}"


def _numbers(results: Results, entries: Sequence[Entry]) -> Numbers:
    """By image and class, then method and layer: what methods are compared by."""
    wanted = {(entry.image, entry.target) for entry in entries}
    known = set(places(results))
    found: Numbers = {pair: {} for pair in wanted}
    for measure in results.plan.measures:
        label, kind = measure.label or measure.measure, measure.measure
        if kind == "restricted_pointing_game":  # its numbers belong to another class's map
            continue
        details = [detail for name, detail in results.measures() if name == label]
        order = ["", *BETTER.get(kind, {})]
        shown = details[-1:] if kind == "parameter_randomization" else [d for d in order if d in details]
        for detail in shown:
            for row in results.rows(label, detail):
                pair, place = (row.image, row.target), Place(row.method, row.layer)
                if pair in wanted and place in known:
                    found[pair].setdefault(place, []).append((f"{label} {detail}".rstrip(), row.value))
    return found


# --- Pictures --------------------------------------------------------------------------------------------------------


def _image(picture: Image.Image, alt: str) -> str:
    file = io.BytesIO()
    picture.convert("RGB").quantize(_COLOURS).save(file, format="PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    width, height = picture.size
    return f'<img width="{width}" height="{height}" alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def _size(picture: Tensor) -> tuple[int, int]:
    """Width and height of a thumbnail."""
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
