"""Maps of one picture as a self-contained interactive page: choose method, layer and class; works without a network."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate.visualization.blending import colours_of
from captum_extract_aggregate.visualization.figures import scale_of
from captum_extract_aggregate.visualization.page_templates import render

# By class, method and layer: each one example's map, 1 x h x w.
MapsByClass = Sequence[Mapping[str, Mapping[str, Tensor]]]


def write_page(
    path: Path, title: str, picture: Tensor, maps: MapsByClass, classes: Sequence[str], scores: Sequence[float]
) -> None:
    """Writes the page; it opens with the first class.

    Args:
        path: an .html file.
        title: above all.
        picture: `3 x H x W` in [0, 1].
        maps: for each class what `maps_by_layer` gives.
        classes, scores: the name and score of each class. Names of any kind are shown as they are written.

    Raises:
        ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import tempfile, torch
        >>> from captum_extract_aggregate.visualization.explain_page import write_page
        >>> path = Path(tempfile.mkdtemp()) / "maps.html"
        >>> maps = [{"NormGrad": {"layer4": torch.rand(1, 2, 2)}}]
        >>> write_page(path, "a title", torch.rand(3, 8, 8), maps, ["cat"], [7.1])
        >>> "NormGrad" in path.read_text()
        True
    """
    path.write_text(page(title, picture, maps, classes, scores), encoding="utf-8")


def page(title: str, picture: Tensor, maps: MapsByClass, classes: Sequence[str], scores: Sequence[float]) -> str:
    """Returns the page's text; arguments and errors as of `write_page`."""
    _check(picture, maps, classes, scores)
    methods = []
    for name, layers in maps[0].items():
        signed = any(bool((own[name][layer] < 0).any()) for own in maps for layer in layers)
        content = {layer: [_map(own[name][layer]) for own in maps] for layer in layers}
        order = list(layers)  # an object's keys that are numbers come first in JavaScript
        methods.append({"name": name, "signed": signed, "order": order, "layers": content})
    data = {
        "title": title,
        "picture": _picture(picture),
        "classes": [{"name": name, "score": f"{score:.2f}"} for name, score in zip(classes, scores)],
        "methods": methods,
        "colours": {"signed": _colours("all"), "positive": _colours("positive")},
    }
    return render(__package__, "explain.html", data=data)


def _check(picture: Tensor, maps: MapsByClass, classes: Sequence[str], scores: Sequence[float]) -> None:
    if picture.ndim != 3 or picture.shape[0] != 3:
        raise InvalidValueError(f"picture has shape {tuple(picture.shape)}; expected 3 x H x W, in [0, 1]")
    if not maps or not len(maps) == len(classes) == len(scores):
        raise InvalidValueError(
            f"maps, classes and scores are {len(maps)}, {len(classes)} and {len(scores)}; expected as many"
        )
    places = [{(method, layer) for method, layers in own.items() for layer in layers} for own in maps]
    if not places[0] or any(own != places[0] for own in places):
        raise InvalidValueError(
            "maps differ in their methods or layers from class to class, or have none; expected the same"
        )
    for own in maps:
        for method, layers in own.items():
            for layer, map_ in layers.items():
                if map_.ndim != 3:
                    raise InvalidValueError(
                        f"the map of {method!r} at {layer!r} has shape {tuple(map_.shape)}; expected 1 x h x w: a page "
                        "draws maps of a picture"
                    )


def _map(map_: Tensor) -> dict[str, Any]:
    """Returns a map in eight bits a position, as shares of the largest magnitude."""
    values = map_.detach().double().cpu().sum(0).numpy()
    scale = scale_of([map_])
    shares = np.nan_to_num(values / scale, nan=0, posinf=0, neginf=0) if scale > 0 else np.zeros_like(values)
    return {
        "height": values.shape[0],
        "width": values.shape[1],
        "scale": scale if math.isfinite(scale) else 0,
        "undefined": not np.isfinite(values).all(),
        "values": _text(np.rint(127 * shares).astype(np.int8).tobytes()),
    }


def _picture(picture: Tensor) -> str:
    pixels = picture.detach().float().cpu().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + _text(file.getvalue())


def _colours(sign: str) -> str:
    return _text(colours_of(sign)(np.arange(256), bytes=True)[:, :3].tobytes())


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
