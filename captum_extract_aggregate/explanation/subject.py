"""The model that is explained, with its classes, and pictures as it takes them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import (
    CaptumExtractAggregateError,
    InvalidTypeError,
    InvalidValueError,
    index_of_name,
    is_file,
    said,
    unknown_name,
)
from captum_extract_aggregate._engine.outputs import scored
from captum_extract_aggregate._engine.recording import record
from captum_extract_aggregate.data.models_by_name import NamedModel, imagenet_names, known_of, load_subject

_LARGEST = 4096
Names: TypeAlias = "Sequence[str] | str | Path | None"
Numbers: TypeAlias = "str | float | Sequence[float]"
Class: TypeAlias = "int | str | Tensor"


def scores_of(model: nn.Module, x: Tensor) -> Tensor:
    """Returns the model's class scores of a picture, as a method's pass would: what may not be in train mode is an
    error, and the model stays as it is. Our error for a model that gives none."""
    try:
        output = record(model, x, ()).output
    except CaptumExtractAggregateError:
        raise
    except Exception as error:  # whatever the model's own code raises
        raise InvalidValueError(
            f"the model does not run on a picture of shape {tuple(x.shape)} and {x.dtype} ({said(error)}); expected a "
            "picture as it takes them: size= (on the command line --size) changes the side, and a tensor of floats, "
            "1 x C x H x W, goes in as it is"
        ) from error
    scores = scored(model, output)
    if scores.ndim != 2:
        raise InvalidValueError(
            f"the model gives a tensor {tuple(scores.shape)}; expected a tensor, batch x classes "
            "(batch x 1 for a single score)"
        )
    return scores


def as_taken(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a picture as a model takes it, with its scores: as it is, else in the precision of the model's weights
    and where they are."""
    try:
        return x, scores_of(model, x)
    except InvalidValueError as error:
        like = next((p for p in model.parameters() if p.is_floating_point()), x)
        if (like.device, like.dtype) == (x.device, x.dtype):
            raise
        try:
            x = x.to(like.device, like.dtype)
            return x, scores_of(model, x)
        except InvalidValueError:
            raise error from None


def find_subject(
    model: str, weights: str, class_names: Names = None, size: int = 0, mean: Numbers = "", std: Numbers = ""
) -> NamedModel:
    """Returns the model that a name means, with what is said of its classes and its input."""
    names = _read_class_names(class_names)
    subject = load_subject(model, weights, len(names))
    return _changed(subject, names, size, mean, std)


def subject_of(
    model: nn.Module, weights: str, class_names: Names = None, size: int = 0, mean: Numbers = "", std: Numbers = ""
) -> NamedModel:
    """Returns a network with what its own configuration tells of its input and classes, else as ImageNet's classifiers
    are evaluated."""
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module, or a model's name")
    if weights:
        raise InvalidValueError(f"weights is {weights!r}, but the model is a network with its own; expected none")
    return _changed(known_of(model), _read_class_names(class_names), size, mean, std)


def _changed(subject: NamedModel, names: list[str], size: int, mean: Numbers, std: Numbers) -> NamedModel:
    subject.classes = names or subject.classes
    if size:
        if not 8 <= size <= _LARGEST:
            raise InvalidValueError(f"size is {size}; expected 8 to {_LARGEST} pixels")
        subject.resize = max(size, round(size * subject.resize / subject.size))
        subject.size = size
    if size or mean or std:
        subject.processor = None
    subject.mean = _numbers("mean", mean) or subject.mean
    subject.std = _numbers("std", std) or subject.std
    if min(subject.std) <= 0:
        raise InvalidValueError(f"std is {std!r}; expected positive numbers")
    return subject


def _read_class_names(given: Names) -> list[str]:
    if given is None:
        return []
    if not isinstance(given, (str, Path)):
        return [str(name) for name in given]
    path = Path(given)
    if not is_file(path) and str(given).lower() == "imagenet":
        return imagenet_names()
    if not is_file(path):
        raise InvalidValueError(f"class-names is {str(path)!r}, and there is no such file (nor is it 'imagenet')")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidValueError(f"class-names is {str(path)!r}, which is no text in UTF-8 ({error})") from None
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise InvalidValueError(f"class-names is {str(path)!r}, which is empty; expected one class name per line")
    return names


def check_names(given: Names, names: list[str], classes: int) -> None:
    """Raises our error for class names, or a file of them, of another number than the model has classes."""
    if given is not None and len(names) != classes:
        what = f"{str(given)!r}, which has" if isinstance(given, (str, Path)) else "a list of"
        raise InvalidValueError(
            f"class-names is {what} {len(names)} names, but the model gives {classes} scores; expected a name for each"
        )


def preprocess(picture: Image.Image, subject: NamedModel) -> Tensor:
    """Makes the model's input as its own processor does; else brings the short side to `resize`, takes the centre
    `size` square (or the whole picture as a square), normalised: what image classifiers are evaluated on."""
    if subject.processor is not None:
        return subject.processor(picture)
    box = seen_box(picture.size, subject)
    picture = picture.resize((subject.size, subject.size), Image.Resampling.BILINEAR, box=box)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(subject.size, subject.size, 3)
    x = pixels.permute(2, 0, 1).float().div(255)
    return ((x - _column(subject.mean)) / _column(subject.std))[None]


def seen_box(size: tuple[int, int], subject: NamedModel) -> tuple[float, float, float, float]:
    """Returns which part of a picture the model sees: left, upper, right and lower, in the picture's pixels."""
    width, height = size
    if subject.is_square:
        return 0, 0, width, height
    half = min(width, height) * subject.size / subject.resize / 2
    return width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half


def to_picture(x: Tensor, subject: NamedModel) -> Tensor:
    """Returns the input as a picture in [0, 1]."""
    return (x * _column(subject.std) + _column(subject.mean)).clamp(0, 1)


def _column(numbers: Sequence[float]) -> Tensor:
    return torch.tensor(numbers).view(-1, 1, 1)


def _numbers(what: str, given: Numbers) -> tuple[float, ...]:
    if isinstance(given, (int, float)):
        given = [given]
    if not given:
        return ()
    try:
        numbers = tuple(float(part) for part in (given.split(",") if isinstance(given, str) else given))
    except (ValueError, TypeError):
        numbers = ()
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
        raise InvalidValueError(f"{what} is {given!r}; expected one number, or three separated by commas")
    return numbers


def class_name(classes: list[str], index: int) -> str:
    """Returns what a class is called: its name, and its index where that is another."""
    name = classes[index] if index < len(classes) else ""
    return name if name == str(index) else f"{name} ({index})" if name else str(index)


def class_index(target: Class | None, classes: list[str], scores: Tensor) -> int:
    """Returns the class of a name (spelled exactly so, else without regard to case) or of an index; None or "": the one
    with the highest score."""
    if target is None or target == "":
        return int(scores.argmax())
    if isinstance(target, Tensor):
        if target.numel() != 1 or target.is_floating_point():
            raise InvalidTypeError(f"target is a {target.dtype} tensor {tuple(target.shape)}; expected one class index")
        target = int(target)
    text = str(target)
    index = index_of_name("target", text, classes)
    if index is None and not re.fullmatch(r"[+-]?\d+", text.strip(), re.ASCII):
        likely = [classes[i] for i in scores.argsort(descending=True).tolist() if i < len(classes)]
        if not likely:
            raise InvalidValueError(
                f"target is {text!r}, but the names of the model's classes are not known; expected an index up to "
                f"{len(scores) - 1}, or class_names= (on the command line --class-names): a file with a name in each "
                "line, or 'imagenet'"
            )
        raise InvalidValueError(unknown_name("target", text, likely, f" (or an index up to {len(scores) - 1})"))
    index = int(text) if index is None else index
    if not 0 <= index < len(scores):
        raise InvalidValueError(
            f"target is {text!r} (index {index}); expected 0 to {len(scores) - 1}: the model's classes"
        )
    return index
