"""The images of a plan, as the model takes them, with what is known of their objects."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from captum_extract_aggregate.data.images import load_image, to_rgb
from captum_extract_aggregate.data.pointing import PointingPairs, coco_pairs, mask_from_boxes, pairs_of, voc_pairs
from captum_extract_aggregate.data.scenes import SCENE_MEAN, SCENE_SIZE, SCENE_STD, DigitScenes
from captum_extract_aggregate.evaluation.plan import DataPlan
from captum_extract_aggregate.subjects import Subject, build_from

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


class UnreadableError(ValueError):
    """An image that cannot be read."""


@dataclass(frozen=True)
class Sample:
    """One image: its index, name, input `C x H x W`, class (-1: unknown), and objects (None: unknown)."""

    image: int
    name: str
    x: Tensor
    label: int = -1
    pairs: PointingPairs | None = None


@dataclass(frozen=True)
class Images:
    """The images of a plan: how many, a function that reads one, and whether objects (or whole images) are known."""

    count: int
    read: Callable[[int], Sample]
    has_objects: bool
    classes: tuple[str, ...]
    normalisation: Normalisation

    def picture(self, x: Tensor) -> Tensor:
        """The input as a picture in [0, 1]."""
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in self.normalisation)
        return (x.cpu() * std + mean).clamp(0, 1)


def open_images(plan: DataPlan, subject: Subject) -> Images:
    """Finds the data set; raises ValueError with one clear line if it is not there."""
    openers = {
        "scenes": _scenes,
        "voc": _voc,
        "coco": _coco,
        "folder": _folder,
        "list": _list,
        "custom": _custom,
    }
    try:
        count, read, has_objects, classes = openers[plan.kind](plan, _Preprocess(plan, subject))
    except ValueError as error:
        if plan.kind in ("scenes", "list", "custom"):
            raise
        raise _not_opened(plan, error) from None
    except Exception as error:  # whatever the data set's own code raises
        raise _not_opened(plan, error) from None
    indices = range(plan.start, count, plan.every)
    indices = indices[: plan.n] if plan.n else indices
    if not indices:
        raise ValueError(f"data.start is {plan.start}, but there are {count} images; expected at least one to be left")
    normalisation: Normalisation = (SCENE_MEAN,), (SCENE_STD,)
    if plan.kind != "scenes":
        normalisation = plan.mean or subject.mean, plan.std or subject.std

    def read_chosen(i: int) -> Sample:
        try:
            return read(indices[i], i)
        except Exception as error:  # whatever a damaged file, or the data set's own code, raises
            what = error if isinstance(error, (OSError, ValueError)) else repr(error)
            raise UnreadableError(f"image {i} cannot be read: {what}") from error

    return Images(len(indices), read_chosen, has_objects, tuple(classes), normalisation)


_Opened = tuple[int, Callable[[int, int], Sample], bool, Sequence[str]]


class _Preprocess:
    """A picture as the model takes it."""

    def __init__(self, plan: DataPlan, subject: Subject) -> None:
        self.size = plan.size or subject.size
        self.resize = plan.resize or ("short" if plan.kind in ("voc", "coco") else "crop")
        self.short = (
            max(self.size, round(self.size * subject.resize / subject.size)) if self.resize == "crop" else self.size
        )
        self.mean, self.std = list(plan.mean or subject.mean), list(plan.std or subject.std)

    def __call__(self, picture: Image.Image) -> Tensor:
        # As torchvision's Resize: one number is the short side, and the long side is rounded down.
        size = [self.size, self.size] if self.resize == "square" else [self.short]
        x = TF.to_dtype(TF.to_image(TF.resize(picture, size, antialias=True)), torch.float32, scale=True)
        if self.resize == "crop":
            x = TF.center_crop(x, [self.size, self.size])
        return TF.normalize(x, self.mean, self.std).as_subclass(Tensor)


def _scenes(plan: DataPlan, preprocess: _Preprocess) -> _Opened:
    count = plan.start + (plan.n or 100) * plan.every
    scenes = DigitScenes(count, plan.seed, plan.split)

    def read(index: int, i: int) -> Sample:
        x, target = scenes[index]
        labels = target["labels"]
        size = (SCENE_SIZE, SCENE_SIZE)
        masks = {c: mask_from_boxes(target["boxes"][labels == c], size) for c in sorted(set(labels.tolist()))}
        return Sample(i, f"scene {index}", x, int(labels[0]), pairs_of(masks, list(masks), size))

    return count, read, True, [str(digit) for digit in range(10)]


def _voc(plan: DataPlan, preprocess: _Preprocess) -> _Opened:
    from torchvision.datasets import VOCDetection

    from captum_extract_aggregate.data.pointing import VOC_CLASSES

    data = VOCDetection(plan.root, plan.year, plan.image_set)

    def read(index: int, i: int) -> Sample:
        picture, annotation = data[index]
        pairs = voc_pairs(annotation)
        return Sample(i, Path(data.images[index]).name, preprocess(picture), _first(pairs), pairs)

    return len(data), read, preprocess.resize != "crop", VOC_CLASSES


def _coco(plan: DataPlan, preprocess: _Preprocess) -> _Opened:
    from torchvision.datasets import CocoDetection

    data = CocoDetection(plan.root, plan.file)
    categories = sorted(data.coco.getCatIds())

    def read(index: int, i: int) -> Sample:
        picture, annotations = data[index]
        pairs = coco_pairs(annotations, (picture.height, picture.width), categories)
        name = data.coco.loadImgs(data.ids[index])[0]["file_name"]
        return Sample(i, name, preprocess(picture), _first(pairs), pairs)

    classes = [category["name"] for category in data.coco.loadCats(categories)]
    return len(data), read, preprocess.resize != "crop", classes


def _folder(plan: DataPlan, preprocess: _Preprocess) -> _Opened:
    from torchvision.datasets import ImageFolder

    data = ImageFolder(plan.root)

    def read(index: int, i: int) -> Sample:
        path, label = data.samples[index]
        return Sample(i, str(Path(path).relative_to(Path(plan.root).expanduser())), preprocess(load_image(path)), label)

    return len(data), read, False, data.classes


def _list(plan: DataPlan, preprocess: _Preprocess) -> _Opened:
    path = Path(plan.file)
    if not path.is_file():
        raise ValueError(f"data.file is {plan.file!r}, and there is no such file")
    root = Path(plan.root) if plan.root else path.parent
    entries = [
        _entry(line, n, plan.file) for n, line in enumerate(path.read_text("utf-8").splitlines(), 1) if line.strip()
    ]

    def read(index: int, i: int) -> Sample:
        name, label = entries[index]
        return Sample(i, name, preprocess(load_image(root / name)), label)

    return len(entries), read, False, ()


def _entry(line: str, number: int, file: str) -> tuple[str, int]:
    name, *rest = line.rstrip("\n").split("\t")
    try:
        return name, int(rest[0]) if rest else -1
    except ValueError:
        raise ValueError(f"line {number} of {file!r} is {line!r}; expected a path, a tab and a class index") from None


def _custom(plan: DataPlan, preprocess: _Preprocess) -> _Opened:
    data = build_from("data.dataset", plan.dataset, **plan.arguments)
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise ValueError(
            f"data.dataset is {plan.dataset!r}, which returned a {type(data).__name__}; expected a data set "
            "with a length"
        )

    def read(index: int, i: int) -> Sample:
        item = data[index]
        x, about = item if isinstance(item, (tuple, list)) and len(item) == 2 else (item, None)
        x = preprocess(to_rgb(x)) if isinstance(x, Image.Image) else x
        if not isinstance(x, Tensor) or x.ndim != 3 or not x.is_floating_point():
            raise ValueError(
                f"the data set gives {type(x).__name__}; expected a normalised float tensor C x H x W, or a PIL picture"
            )
        if isinstance(about, PointingPairs):
            return Sample(i, f"image {index}", x, _first(about), about)
        return Sample(i, f"image {index}", x, -1 if about is None else int(about))

    first = _first_item(data)
    has_objects = isinstance(first, (tuple, list)) and len(first) == 2 and isinstance(first[1], PointingPairs)
    is_cropped = preprocess.resize == "crop" and isinstance(first[0], Image.Image) if has_objects else False
    return len(data), read, has_objects and not is_cropped, ()


def _first_item(data: Any) -> Any:
    for index in range(min(len(data), 20)):
        with contextlib.suppress(Exception):  # unreadable ones are told of when their turn comes
            return data[index]
    return None


def _not_opened(plan: DataPlan, error: Exception) -> ValueError:
    where = f"root {plan.root!r}" + (f" and file {plan.file!r}" if plan.file else "")
    return ValueError(f"data of the kind {plan.kind!r} cannot be opened with {where}: {error!r}")


def _first(pairs: PointingPairs) -> int:
    return pairs.classes[0] if pairs.classes else -1


def to_image_size(map_: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """A map `N x 1 x h x w` at the image's size."""
    if tuple(map_.shape[2:]) == size:
        return map_
    if interpolation == "nearest":
        return F.interpolate(map_, size, mode="nearest")
    return F.interpolate(map_, size, mode="bilinear", align_corners=False)
