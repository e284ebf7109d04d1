"""The model that options name, with its classes, and pictures as it takes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError, is_file
from captum_extract_aggregate.data.models_by_name import NamedModel, load_subject

_LARGEST = 4096


def scores_of(model: nn.Module, x: Tensor) -> Tensor:
    """Returns the model's class scores of a picture; our error for a model that gives none."""
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


def find_subject(
    model: str, weights: str, class_names: Path | None, size: int = 0, mean: str = "", std: str = ""
) -> NamedModel:
    """Returns the model that options name, with what they say of its classes and its input."""
    names = _read_class_names(class_names)
    subject = load_subject(model, weights, len(names))
    subject.classes = names or subject.classes
    if size:
        if not 8 <= size <= _LARGEST:
            raise InvalidValueError(f"size is {size}; expected 8 to {_LARGEST} pixels")
        subject.resize = max(size, round(size * subject.resize / subject.size))
        subject.size = size
    subject.mean = _numbers("mean", mean) or subject.mean
    subject.std = _numbers("std", std) or subject.std
    if min(subject.std) <= 0:
        raise InvalidValueError(f"std is {std!r}; expected positive numbers")
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


def check_names(path: Path | None, names: list[str], classes: int) -> None:
    """Raises our error for a file of class names that has another number of them than the model has classes."""
    if path is not None and len(names) != classes:
        raise InvalidValueError(
            f"class-names is {str(path)!r}, which has {len(names)} names, but the model gives {classes} scores; "
            "expected a name for each"
        )


def preprocess(picture: Image.Image, subject: NamedModel) -> Tensor:
    """Brings the short side to `resize`, takes the centre `size` square, normalised: what image classifiers are
    evaluated on."""
    width, height = picture.size
    half = min(width, height) * subject.size / subject.resize / 2  # of the square's side, in the picture's pixels
    square = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
    picture = picture.resize((subject.size, subject.size), Image.Resampling.BILINEAR, box=square)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(subject.size, subject.size, 3)
    x = pixels.permute(2, 0, 1).float().div(255)
    return ((x - _column(subject.mean)) / _column(subject.std))[None]


def to_picture(x: Tensor, subject: NamedModel) -> Tensor:
    """Returns the input as a picture in [0, 1]."""
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


def class_name(classes: list[str], index: int) -> str:
    """Returns what a class is called: its name, and its index where that is another."""
    name = classes[index] if index < len(classes) else ""
    return name if name == str(index) else f"{name} ({index})" if name else str(index)
