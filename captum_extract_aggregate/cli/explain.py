"""One picture, one model, one class: the grid of maps behind `captum-extract-aggregate explain`."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from captum.attr import Attribution
from PIL import Image
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import (
    InvalidValueError,
    index_of_name,
    is_file,
    is_out_of_memory,
    said,
    unknown_name,
)
from captum_extract_aggregate._engine.default_layers import default_layers
from captum_extract_aggregate._engine.layers import find_layer
from captum_extract_aggregate.attr.by_name import METHODS, check_method, make_method
from captum_extract_aggregate.data.image_files import load_image
from captum_extract_aggregate.data.models_by_name import SCENES, Subject, load_subject
from captum_extract_aggregate.data.scenes import DigitScenes
from captum_extract_aggregate.visualization.explain_page import write_page
from captum_extract_aggregate.visualization.figures import grid
from captum_extract_aggregate.visualization.rows import Rows, maps_by_target

DEFAULT_METHODS = "normgrad,selective-normgrad,linear-approximation,gradient"
_MOST_COLUMNS = 5
_LARGEST = 4096


@dataclass(frozen=True)
class Request:
    """What the command line was asked for, as text."""

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


def run(request: Request) -> str:
    """Makes the picture and returns what to tell the user. Raises ValueError or TypeError with one clear line."""
    if request.output.suffix.lower() not in (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp"):
        raise InvalidValueError(f"output is {str(request.output)!r}; expected a .png, .pdf, .svg, .jpg or .webp file")
    if request.html is not None and request.html.suffix.lower() not in (".html", ".htm"):
        raise InvalidValueError(f"html is {str(request.html)!r}; expected a .html file")
    for what, path in (("output", request.output), ("html", request.html)):
        if path is not None and not path.absolute().parent.is_dir():
            raise InvalidValueError(f"{what} is {str(path)!r}, but the folder {path.parent} does not exist")
        if path is not None and path.is_dir():
            raise InvalidValueError(f"{what} is {str(path)!r}, which is a folder; expected a file's name")
    methods = _split(request.methods)
    if not methods:
        raise InvalidValueError(f"methods is {request.methods!r}; expected at least one of {', '.join(METHODS)}")
    for method in methods:
        check_method(method)
    if request.image is None and (request.size or request.mean or request.std):
        raise InvalidValueError("size, mean and std are for an IMAGE of your own; expected an IMAGE, or none of them")
    subject = _subject(request)
    x, boxes = _scene(request) if request.image is None else (_preprocess(load_image(request.image), subject), None)
    scores = _scores(subject.model, x)
    _check_names(request.class_names, subject.classes, scores.shape[1])
    layers = _layers(request, subject.model, x)
    made = {method: _made(method, subject.model, list(layers.values())) for method in methods}
    target = _target(request.target, subject.classes, scores[0])
    shown = [target, *(int(i) for i in scores[0].topk(min(5, scores.shape[1])).indices if int(i) != target)]
    maps = _maps(made, x, shown if request.html is not None else [target])
    name = _class_name(subject.classes, target)
    title = f"{request.model}: class {name}, score {scores[0, target]:.2f}"
    picture = _to_picture(x[0], subject)
    with _writing("output", request.output):
        grid(picture, maps[0], title, boxes).savefig(request.output, dpi=150)
    report = _report(scores[0], subject.classes, target, layers, request.output)
    if request.html is None:
        return report
    names = [_class_name(subject.classes, i) for i in shown]
    with _writing("html", request.html):
        write_page(request.html, f"Saliency maps of {request.model}", picture, maps, names, scores[0, shown].tolist())
    return f"{report}\npage written to {request.html}"


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


def _scores(model: nn.Module, x: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            scores = model(x)
    except Exception as error:  # whatever the model's own code raises
        raise InvalidValueError(
            f"the model does not run on a picture of shape {tuple(x.shape)} ({type(error).__name__}: {error}); "
            "expected one that does: see --size"
        ) from error
    if not isinstance(scores, Tensor) or scores.ndim != 2:
        got = f"a tensor {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise InvalidValueError(
            f"the model gives {got}; expected a tensor, batch x classes (batch x 1 for a single score)"
        )
    return scores


def _report(scores: Tensor, classes: list[str], target: int, layers: dict[str, nn.Module], output: Path) -> str:
    top = scores.topk(min(5, len(scores)))
    lines = ["class scores (logits), highest first:"]
    lines += [
        f"  {score:8.2f}  {_class_name(classes, i)}" for score, i in zip(top.values.tolist(), top.indices.tolist())
    ]
    lines.append(f"explained: class {_class_name(classes, target)}, score {scores[target]:.2f}")
    lines.append(f"layers: {', '.join(layers)}")
    lines.append(f"maps written to {output}")
    return "\n".join(lines)


def serve_insights(
    images: Sequence[Path], model: str, weights: str, class_names: Path | None, method: str, port: int
) -> None:
    """Captum Insights on pictures, or on embedded scenes; returns when its server ends."""
    from captum_extract_aggregate import insights

    if not images and model not in SCENES:
        raise InvalidValueError(f"model is {model!r}, but there is no picture to explain; expected IMAGES")
    subject = _subject(Request(model=model, weights=weights, class_names=class_names))
    scenes = DigitScenes(n=12)
    pictures = [_preprocess(load_image(path), subject)[0] for path in images]
    first = pictures[0] if images else scenes[0][0]
    count = _scores(subject.model, first[None]).shape[1]
    _check_names(class_names, subject.classes, count)
    classes = [_class_name(subject.classes, i) for i in range(count)]
    insights.serve(
        subject.model, classes, pictures or scenes, subject.mean, subject.std, method, port or None, blocking=True
    )


# --- Models ---------------------------------------------------------------------------------------------------------


def _subject(request: Request) -> Subject:
    names = _read_class_names(request.class_names)
    subject = load_subject(request.model, request.weights, len(names))
    subject.classes = names or subject.classes
    if request.size:
        if not 8 <= request.size <= _LARGEST:
            raise InvalidValueError(f"size is {request.size}; expected 8 to {_LARGEST} pixels")
        subject.resize = max(request.size, round(request.size * subject.resize / subject.size))
        subject.size = request.size
    subject.mean = _numbers("mean", request.mean) or subject.mean
    subject.std = _numbers("std", request.std) or subject.std
    if min(subject.std) <= 0:
        raise InvalidValueError(f"std is {request.std!r}; expected positive numbers")
    return subject


def _read_class_names(path: Path | None) -> list[str]:
    if path is None:
        return []
    if not is_file(path):
        raise InvalidValueError(f"class-names is {str(path)!r}, and there is no such file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidValueError(f"class-names is {str(path)!r}, which is no text in UTF-8 ({error})") from None
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise InvalidValueError(f"class-names is {str(path)!r}, which is empty; expected one class name per line")
    return names


def _check_names(path: Path | None, names: list[str], classes: int) -> None:
    if path is not None and len(names) != classes:
        raise InvalidValueError(
            f"class-names is {str(path)!r}, which has {len(names)} names, but the model gives {classes} scores; "
            "expected a name for each"
        )


# --- Pictures --------------------------------------------------------------------------------------------------------


def _scene(request: Request) -> tuple[Tensor, Tensor]:
    if request.model not in SCENES:
        raise InvalidValueError(f"model is {request.model!r}, but there is no picture to explain; expected an IMAGE")
    if not 0 <= request.seed < 2**62:
        raise InvalidValueError(f"seed is {request.seed}; expected 0 or more, below 2**62")
    image, target = DigitScenes(n=1, seed=request.seed)[0]
    return image[None], target["boxes"]


def _preprocess(picture: Image.Image, subject: Subject) -> Tensor:
    """Short side to `resize`, the centre `size` square, normalised: what image classifiers are evaluated on."""
    width, height = picture.size
    half = min(width, height) * subject.size / subject.resize / 2  # of the square's side, in the picture's pixels
    square = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
    picture = picture.resize((subject.size, subject.size), Image.Resampling.BILINEAR, box=square)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(subject.size, subject.size, 3)
    x = pixels.permute(2, 0, 1).float().div(255)
    return ((x - _column(subject.mean)) / _column(subject.std))[None]


def _to_picture(x: Tensor, subject: Subject) -> Tensor:
    return (x * _column(subject.std) + _column(subject.mean)).clamp(0, 1)


def _column(numbers: Sequence[float]) -> Tensor:
    return torch.tensor(numbers).view(-1, 1, 1)


def _numbers(what: str, text: str) -> tuple[float, ...]:
    if not text:
        return ()
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
        raise InvalidValueError(f"{what} is {text!r}; expected one number, or three separated by commas")
    return numbers


# --- Layers, methods, classes ----------------------------------------------------------------------------------------


def _split(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _layers(request: Request, model: nn.Module, x: Tensor) -> dict[str, nn.Module]:
    names = _split(request.layers)
    if names:
        found = {name: find_layer(name, model) for name in names}
        return {name: layer for name, layer in found.items() if layer is not None}
    layers = default_layers(model, x)
    if len(layers) <= _MOST_COLUMNS:
        return layers
    items = list(layers.items())  # of many alike blocks, some evenly spread ones
    return dict(items[round(i * (len(items) - 1) / (_MOST_COLUMNS - 1))] for i in range(_MOST_COLUMNS))


def _target(text: str, classes: list[str], scores: Tensor) -> int:
    """The class of a name (spelled exactly so, else without regard to case) or of an index."""
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


def _class_name(classes: list[str], index: int) -> str:
    name = classes[index] if index < len(classes) else ""
    return name if name == str(index) else f"{name} ({index})" if name else str(index)
