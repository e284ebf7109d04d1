"""Digit scenes: a small multi-label data set whose objects are known to the pixel.

Each scene shows one to four handwritten digits (scikit-learn's bundled 8 x 8 set) of random size, colour, slant and
place. Strokes and digit fragments of the same width and colours lie behind and across them, and digits may touch or
partly hide each other, so that a classifier, and a saliency map, must find the digit among look-alikes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import Dataset

from captum_extract_aggregate._common.errors import InvalidValueError

NUM_CLASSES = 10
SCENE_SIZE = 96
SCENE_MEAN = 0.31  # of all channels of the training scenes; the value a removed pixel gets
SCENE_STD = 0.19
_MAX_DIGITS = 4
_MIN_VISIBLE = 0.6  # a digit hidden more than this is drawn again elsewhere
_SPLITS = ("train", "test")


@lru_cache(maxsize=2)
def _glyphs(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the 8 x 8 digits of one split as uint8, and their classes: every fifth image is a test digit."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    is_test = np.random.default_rng(0).permutation(len(digits.images)) % 5 == 0
    keep = is_test if split == "test" else ~is_test
    return (digits.images[keep] * 255 / 16).astype(np.uint8), digits.target[keep]


def _render_glyph(glyph: np.ndarray, size: int, angle: float) -> np.ndarray:
    """Returns a glyph as an alpha mask of `size` pixels, slanted by `angle` degrees, with crisp strokes."""
    picture = Image.fromarray(glyph).resize((size, size), Image.Resampling.BICUBIC)
    picture = picture.rotate(angle, Image.Resampling.BICUBIC)
    return np.clip((np.asarray(picture, dtype=np.float32) / 255 - 0.3) / 0.3, 0, 1)


def _stroke(rng: np.random.Generator, size: int) -> np.ndarray:
    """Returns a full-canvas alpha mask with one line or arc, as wide as a digit's stroke."""
    picture = Image.new("L", (size, size))
    draw = ImageDraw.Draw(picture)
    x, y = rng.uniform(0, size, 2)
    width = int(rng.integers(2, 5))
    if rng.random() < 0.5:
        dx, dy = rng.uniform(-18, 18, 2)
        draw.line([x, y, x + dx, y + dy], fill=255, width=width)
    else:
        w, h = rng.uniform(8, 24, 2)
        start = rng.uniform(0, 360)
        draw.arc([x, y, x + w, y + h], start, start + rng.uniform(60, 200), fill=255, width=width)
    return np.asarray(picture, dtype=np.float32) / 255


def _place(alpha: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    canvas = np.zeros((size, size), dtype=np.float32)
    canvas[top : top + alpha.shape[0], left : left + alpha.shape[1]] = alpha
    return canvas


def _colour(rng: np.random.Generator) -> np.ndarray:
    """Returns a colour that stands out from the dark background."""
    colour = rng.uniform(0.2, 1.0, 3).astype(np.float32)
    colour[rng.integers(3)] = rng.uniform(0.7, 1.0)
    return colour


def _blend(image: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> None:
    image += alpha[..., None] * (colour - image)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    coarse = rng.integers(20, 110, (4, 4, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float32) / 255


def _random_glyph(rng: np.random.Generator, split: str) -> tuple[np.ndarray, int]:
    glyphs, classes = _glyphs(split)
    i = rng.integers(len(glyphs))
    return _render_glyph(glyphs[i], int(rng.integers(20, 38)), rng.uniform(-15, 15)), int(classes[i])


def _draw_distractors(rng: np.random.Generator, image: np.ndarray, split: str) -> None:
    size = image.shape[0]
    for _ in range(rng.integers(6, 13)):
        _blend(image, _stroke(rng, size), _colour(rng))
    for _ in range(rng.integers(1, 4)):  # halves of digits: right strokes, wrong whole
        alpha, _ = _random_glyph(rng, split)
        n = len(alpha)
        half = alpha[: n // 2] if rng.random() < 0.5 else alpha[:, : n // 2]
        top, left = (int(rng.integers(size - side)) for side in half.shape)
        _blend(image, _place(half, top, left, size), _colour(rng))


def _draw_digits(
    rng: np.random.Generator, image: np.ndarray, split: str
) -> tuple[list[int], list[np.ndarray], list[np.ndarray]]:
    """Draws the digits; returns their classes, full masks and visible masks."""
    size = image.shape[0]
    classes: list[int] = []
    full: list[np.ndarray] = []
    visible: list[np.ndarray] = []
    for _ in range(rng.integers(1, _MAX_DIGITS + 1)):
        for _attempt in range(20):
            alpha, digit = _random_glyph(rng, split)
            top, left = (int(rng.integers(size - side)) for side in alpha.shape)
            canvas = _place(alpha, top, left, size)
            mask = canvas > 0.5
            if all((v & ~mask).sum() >= _MIN_VISIBLE * f.sum() for v, f in zip(visible, full)):
                break
        else:
            continue  # no room left: the scene has one digit less
        _blend(image, canvas, _colour(rng))
        visible = [v & ~mask for v in visible]
        classes.append(digit)
        full.append(mask)
        visible.append(mask)
    return classes, full, visible


def _box(mask: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


class DigitScenes(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Holds `n` scenes drawn from `seed`; scene `i` is the same wherever and whenever it is drawn.

    Item `i` is `(image, target)`: `image` is a normalised float `3 x 96 x 96` tensor (a value of 0 is the mean of the
    data set; `to_rgb` gives back a picture in [0, 1]). `target` holds

    - `classes`: float `10`, 1 for every digit class in the scene (for a multi-label loss),
    - `labels`: int64 `D`, the class of each of the D digits,
    - `boxes`: float `D x 4`, each whole digit's `x0, y0, x1, y1` in pixels (x1 and y1 exclusive),
    - `masks`: bool `D x 96 x 96`, each digit's visible pixels.

    Args:
        n: number of scenes.
        seed: scenes of different seeds are different.
        split: `"train"` or `"test"`: the handwritten digits of the two are disjoint.

    Example:
        >>> from captum_extract_aggregate.data import DigitScenes
        >>> image, target = DigitScenes(n=8, seed=0)[0]
        >>> image.shape, target["classes"].shape
        (torch.Size([3, 96, 96]), torch.Size([10]))
    """

    def __init__(self, n: int = 1000, seed: int = 0, split: str = "test") -> None:
        if n < 1:
            raise InvalidValueError(f"n is {n}; expected at least one scene")
        if split not in _SPLITS:
            raise InvalidValueError(f"split is {split!r}; expected one of {_SPLITS}")
        if seed < 0:
            raise InvalidValueError(f"seed is {seed}; expected 0 or more")
        self.n, self.seed, self.split = n, seed, split

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        if not -self.n <= index < self.n:
            raise IndexError(f"scene {index} of {self.n}")
        rng = np.random.default_rng([self.seed, index % self.n, _SPLITS.index(self.split)])
        image = _background(rng, SCENE_SIZE)
        _draw_distractors(rng, image, self.split)
        classes, full, visible = _draw_digits(rng, image, self.split)
        for _ in range(rng.integers(0, 3)):  # strokes across whatever they meet
            alpha = _stroke(rng, SCENE_SIZE)
            _blend(image, alpha, _colour(rng))
            visible = [v & ~(alpha > 0.5) for v in visible]
        image += rng.normal(0, 0.03, image.shape)
        present = torch.zeros(NUM_CLASSES)
        present[classes] = 1
        target = {
            "classes": present,
            "labels": torch.tensor(classes),
            "boxes": torch.tensor(np.array([_box(m) for m in full]), dtype=torch.float32),
            "masks": torch.from_numpy(np.stack(visible)),
        }
        pixels = torch.from_numpy(image.clip(0, 1).astype(np.float32)).permute(2, 0, 1)
        return ((pixels - SCENE_MEAN) / SCENE_STD).contiguous(), target

    @staticmethod
    def to_rgb(image: Tensor) -> Tensor:
        """Undoes the normalisation: values in [0, 1], same shape."""
        return (image * SCENE_STD + SCENE_MEAN).clamp(0, 1)
