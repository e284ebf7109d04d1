"""Maps of one picture as a self-contained interactive page: choose method, layer and class; works without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate.visualization.page_data import colour_data, map_data, picture_data
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
        content = {layer: [map_data(own[name][layer]) for own in maps] for layer in layers}
        order = list(layers)  # an object's keys that are numbers come first in JavaScript
        methods.append({"name": name, "signed": signed, "order": order, "layers": content})
    data = {
        "title": title,
        "picture": picture_data(picture),
        "classes": [{"name": name, "score": f"{score:.2f}"} for name, score in zip(classes, scores)],
        "methods": methods,
        "colours": colour_data(),
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
