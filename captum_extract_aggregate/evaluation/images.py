"""What is known of the images of a plan, and of one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate.data.pointing_pairs import PointingPairs

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


class UnreadableError(InvalidValueError):
    """Says that an image cannot be read."""


@dataclass(frozen=True)
class Sample:
    """Holds one image: its index, name, input `C x H x W`, class (-1: unknown), and objects (None: unknown)."""

    image: int
    name: str
    x: Tensor
    label: int = -1
    pairs: PointingPairs | None = None


class Source(NamedTuple):
    """Holds what an image is made of: files, and `about`, what is known of it from elsewhere (its class, annotations).

    `files` is None where nothing is known but by reading it.
    """

    about: str = ""
    files: tuple[Path, ...] | None = ()


@dataclass(frozen=True)
class Images:
    """Holds the images of a plan: how many, functions that read one, name it and say what it is made of, whether
    objects (or whole images) are known, and whether code of the user's own makes them."""

    count: int
    read: Callable[[int], Sample]
    name: Callable[[int], str]
    source: Callable[[int], Source]
    has_objects: bool
    classes: tuple[str, ...]
    normalisation: Normalisation
    is_users: bool = False

    def picture(self, x: Tensor) -> Tensor:
        """Returns the input as a picture in [0, 1]."""
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in self.normalisation)
        return (x.cpu() * std + mean).clamp(0, 1)
