"""Pictures of any kind, as the input of a model and as what is shown of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, said
from captum_extract_aggregate.data.image_files import load_image, to_8_bit, to_rgb
from captum_extract_aggregate.data.models_by_name import NamedModel
from captum_extract_aggregate.explanation.subject import preprocess, seen_box, to_picture

# A file, a picture of Pillow's, an array H x W x 3 (integers of 8 or 16 bits, or floats in [0, 1]), or a tensor: bytes
# C x H x W, or the model's own input.
Picture: TypeAlias = "str | Path | Image.Image | np.ndarray | Tensor"
_EXPECTED = (
    "a path, a PIL image, an array H x W x 3 of integers (8 or 16 bits) or of floats in [0, 1], a uint8 tensor "
    "3 x H x W, or the model's own input, C x H x W or 1 x C x H x W of floats"
)


class Seen(NamedTuple):
    """Holds a model's input, `1 x C x H x W`, and what it shows, `3 x H x W` in [0, 1], in the photograph's pixels."""

    x: Tensor
    picture: Tensor


def is_input(image: Any) -> bool:
    """Tells whether a picture is the model's own input."""
    return isinstance(image, Tensor) and image.is_floating_point()


def see(image: Picture, subject: NamedModel, transform: Callable[[Image.Image], Tensor] | None) -> Seen:
    """Returns a picture as the model sees it, by the user's transform, else by what is known of the model."""
    if isinstance(image, Tensor) and is_input(image):
        x = image if image.ndim == 4 else image[None]
        if x.ndim != 4 or len(x) != 1:
            raise InvalidTypeError(f"image is a tensor {tuple(image.shape)}; expected {_EXPECTED}")
        return Seen(x, _shown(x[0], subject, transform))
    photograph = _photograph(image)
    if transform is None:
        return Seen(preprocess(photograph, subject), _to_tensor(photograph.crop(seen_box(photograph.size, subject))))
    x = _transformed(photograph, transform)
    return Seen(x, _shown(x[0], subject, transform))


def _photograph(image: Any) -> Image.Image:
    if isinstance(image, (str, Path)):
        return load_image(image)
    if isinstance(image, Image.Image):
        return to_rgb(ImageOps.exif_transpose(image))  # as its file would be
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3:
        image = image.permute(1, 2, 0).cpu().numpy()
    if (
        not isinstance(image, np.ndarray)
        or image.ndim not in (2, 3)
        or (image.ndim == 3 and image.shape[2] not in (1, 3, 4))
    ):
        got = f"{type(image).__name__} {tuple(image.shape)}" if hasattr(image, "shape") else type(image).__name__
        raise InvalidTypeError(f"image is a {got}; expected {_EXPECTED}")
    return to_rgb(Image.fromarray(np.squeeze(_in_bytes(image))))


def _in_bytes(pixels: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Returns the pixels of an array in 8 bits; integers above 255 are of 16, as in a file."""
    most = {"f": 1, "b": 1, "u": 65535, "i": 65535}.get(pixels.dtype.kind)
    if most is None:
        raise InvalidTypeError(f"image is an array of {pixels.dtype}; expected {_EXPECTED}")
    if not pixels.size:
        raise InvalidValueError(f"image is an array {pixels.shape} without pixels; expected {_EXPECTED}")
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= most):
        raise InvalidValueError(f"image has values from {pixels.min():g} to {pixels.max():g}; expected {_EXPECTED}")
    return np.rint(255.0 * pixels).astype(np.uint8) if most == 1 else to_8_bit(pixels)


def _transformed(photograph: Image.Image, transform: Callable[[Image.Image], Tensor]) -> Tensor:
    try:
        x = transform(photograph)
    except Exception as error:  # whatever the user's own code raises
        raise InvalidValueError(f"preprocess does not take a PIL image: {said(error)}") from error
    if not isinstance(x, Tensor) or x.ndim not in (3, 4) or (x.ndim == 4 and len(x) != 1):
        got = f"a tensor {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise InvalidTypeError(f"preprocess returned {got}; expected a tensor C x H x W, the model's input")
    return x if x.ndim == 4 else x[None]


def _shown(x: Tensor, subject: NamedModel, transform: Any) -> Tensor:
    """Returns an input as a picture: by the normalisation that is known, else between its extremes."""
    mean, std = getattr(transform, "mean", None), getattr(transform, "std", None)
    if transform is None:
        mean, std = subject.mean, subject.std
    if len(x) not in (1, 3):
        x, mean = x.mean(0, keepdim=True), None
    if mean is None or std is None:
        low, high = x.min(), x.max()
        return ((x - low) / (high - low).clamp(min=1e-12)).expand(3, -1, -1)
    return to_picture(x.detach().cpu(), replace(subject, mean=mean, std=std)).expand(3, -1, -1)


def _to_tensor(photograph: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(photograph)).permute(2, 0, 1).float().div(255)
