"""One picture, one model, one class: the grid of maps behind `captum-extract-aggregate explain`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from captum.attr import Attribution
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import (
    InvalidValueError,
    index_of_name,
    is_out_of_memory,
    said,
    unknown_name,
)
from captum_extract_aggregate._engine.default_layers import default_layers
from captum_extract_aggregate._engine.layers import find_layer
from captum_extract_aggregate.attr.by_name import METHODS, evenly_spread, find_method, make_method
from captum_extract_aggregate.cli.options import DEFAULT_METHODS, names_in
from captum_extract_aggregate.cli.subject import (
    check_names,
    class_name,
    find_subject,
    preprocess,
    scores_of,
    to_picture,
)
from captum_extract_aggregate.data.image_files import load_image
from captum_extract_aggregate.data.models_by_name import takes_scenes
from captum_extract_aggregate.data.scenes import DigitScenes
from captum_extract_aggregate.visualization.explain_page import write_page
from captum_extract_aggregate.visualization.figures import grid
from captum_extract_aggregate.visualization.rows import Rows, maps_by_target

_MOST_COLUMNS = 5


@dataclass(frozen=True)
class MapsRequest:
    """Holds what the command line was asked for, as text."""

    image: Path | None = None
    model: str = "scene-resnet"
    weights: str = ""
    layers: str = ""
    methods: str = DEFAULT_METHODS
    target: str = ""
    output: Path = Path("explanation.png")
    class_names: Path | None = None
    size: int = 0
    mean: str = ""
    std: str = ""
    seed: int = 0
    html: Path | None = None


def run(request: MapsRequest) -> str:
    """Makes the picture and returns what to tell the user. Raises ValueError or TypeError with one clear line."""
    _check_files(request)
    methods = _methods(request.methods)
    if request.image is None and (request.size or request.mean or request.std):
        raise InvalidValueError("size, mean and std are for an IMAGE of your own; expected an IMAGE, or none of them")
    subject = find_subject(request.model, request.weights, request.class_names, request.size, request.mean, request.std)
    x, boxes = _scene(request) if request.image is None else (preprocess(load_image(request.image), subject), None)
    scores = scores_of(subject.model, x)
    check_names(request.class_names, subject.classes, scores.shape[1])
    layers = _layers(request, subject.model, x)
    own = {method: _own_layers(method, request, subject.model, x, layers) for method in methods}
    made = {method: _made(method, subject.model, own[method]) for method in methods}
    target = _target(request.target, subject.classes, scores[0])
    shown = [target, *(int(i) for i in scores[0].topk(min(5, scores.shape[1])).indices if int(i) != target)]
    maps = _maps(made, x, shown if request.html is not None else [target])
    name = class_name(subject.classes, target)
    title = f"{request.model}: class {name}, score {scores[0, target]:.2f}"
    picture = to_picture(x[0], subject)
    with _writing("output", request.output):
        grid(picture, maps[0], title, boxes).savefig(request.output, dpi=150)
    report = _report(scores[0], subject.classes, target, layers, request.output)
    if request.html is None:
        return report
    names = [class_name(subject.classes, i) for i in shown]
    with _writing("html", request.html):
        write_page(request.html, f"Saliency maps of {request.model}", picture, maps, names, scores[0, shown].tolist())
    return f"{report}\npage written to {request.html}"


def _check_files(request: MapsRequest) -> None:
    if request.output.suffix.lower() not in (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp"):
        raise InvalidValueError(f"output is {str(request.output)!r}; expected a .png, .pdf, .svg, .jpg or .webp file")
    if request.html is not None and request.html.suffix.lower() not in (".html", ".htm"):
        raise InvalidValueError(f"html is {str(request.html)!r}; expected a .html file")
    for what, path in (("output", request.output), ("html", request.html)):
        if path is not None and not path.absolute().parent.is_dir():
            raise InvalidValueError(f"{what} is {str(path)!r}, but the folder {path.parent} does not exist")
        if path is not None and path.is_dir():
            raise InvalidValueError(f"{what} is {str(path)!r}, which is a folder; expected a file's name")


def _methods(text: str) -> list[str]:
    methods = _split(text)
    if not methods:
        raise InvalidValueError(f"methods is {text!r}; expected at least one of {', '.join(METHODS)}")
    for method in methods:
        find_method(method)
    return methods


@contextlib.contextmanager
def _writing(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidValueError(
            f"{what} is {str(path)!r}, which cannot be written: {error.strerror or error}"
        ) from None


def _made(method: str, model: nn.Module, layers: Sequence[nn.Module]) -> Attribution:
    try:
        return make_method(method, model, layers)
    except (ValueError, TypeError) as error:
        raise InvalidValueError(f"method {method!r}: {error}") from None
    except Exception as error:  # whatever Captum's own methods refuse a model with
        raise InvalidValueError(f"method {method!r} does not take this model: {said(error)}") from error


def _maps(made: dict[str, Attribution], x: Tensor, targets: list[int]) -> list[Rows]:
    try:
        return maps_by_target(made, x, targets)
    except (ValueError, TypeError):
        raise
    except Exception as error:  # whatever Captum's own methods, or the model, raise
        name = next((n for n, method in made.items() if _fails(method, x, targets[0])), ", ".join(made))
        cure = "; expected later --layers, or a smaller --size" * is_out_of_memory(error)
        raise InvalidValueError(f"method {name!r} cannot explain this model: {said(error)}{cure}") from error


def _fails(method: Attribution, x: Tensor, target: int) -> bool:
    try:
        maps_by_target({"": method}, x, [target])
    except Exception:
        return True
    return False


def _report(scores: Tensor, classes: list[str], target: int, layers: dict[str, nn.Module], output: Path) -> str:
    top = scores.topk(min(5, len(scores)))
    lines = ["class scores (logits), highest first:"]
    lines += [
        f"  {score:8.2f}  {class_name(classes, i)}" for score, i in zip(top.values.tolist(), top.indices.tolist())
    ]
    lines.append(f"explained: class {class_name(classes, target)}, score {scores[target]:.2f}")
    lines.append(f"layers: {', '.join(layers)}")
    lines.append(f"maps written to {output}")
    return "\n".join(lines)


def _scene(request: MapsRequest) -> tuple[Tensor, Tensor]:
    if not takes_scenes(request.model):
        raise InvalidValueError(f"model is {request.model!r}, but there is no picture to explain; expected an IMAGE")
    if not 0 <= request.seed < 2**62:
        raise InvalidValueError(f"seed is {request.seed}; expected 0 or more, below 2**62")
    image, target = DigitScenes(n=1, seed=request.seed)[0]
    return image[None], target["boxes"]


def _split(text: str) -> list[str]:
    return list(dict.fromkeys(names_in(text)))


def _layers(request: MapsRequest, model: nn.Module, x: Tensor) -> dict[str, nn.Module]:
    names = _split(request.layers)
    if names:
        found = {name: find_layer(name, model) for name in names}
        return {name: layer for name, layer in found.items() if layer is not None}
    return evenly_spread(default_layers(model, x), _MOST_COLUMNS)  # of many alike blocks


def _own_layers(
    method: str, request: MapsRequest, model: nn.Module, x: Tensor, layers: dict[str, nn.Module]
) -> list[nn.Module]:
    """Returns a method's layers: where none are named, those of the kind that it goes with."""
    suited = None if request.layers else find_method(method).suited_layers(model, x, _MOST_COLUMNS)
    return list((layers if suited is None else suited).values())


def _target(text: str, classes: list[str], scores: Tensor) -> int:
    """Returns the class of a name (spelled exactly so, else without regard to case) or of an index."""
    if not text:
        return int(scores.argmax())
    index = index_of_name("target", text, classes)
    if index is None and not re.fullmatch(r"[+-]?\d+", text.strip(), re.ASCII):
        raise InvalidValueError(unknown_name("target", text, classes, f" (or an index up to {len(scores) - 1})"))
    index = int(text) if index is None else index
    if not 0 <= index < len(scores):
        raise InvalidValueError(
            f"target is {text!r} (index {index}); expected 0 to {len(scores) - 1}: the model's classes"
        )
    return index
