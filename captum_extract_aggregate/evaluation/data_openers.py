"""How each kind of data set is opened: its images one by one, as the model takes them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from captum_extract_aggregate._common.errors import InvalidValueError, is_file
from captum_extract_aggregate._common.imported import build_from
from captum_extract_aggregate._common.own_code import place_of
from captum_extract_aggregate.data.image_files import load_image, refuse_virtual, to_rgb
from captum_extract_aggregate.data.models_by_name import NamedModel
from captum_extract_aggregate.data.pointing_pairs import PointingPairs, coco_pairs, mask_from_boxes, pairs_of, voc_pairs
from captum_extract_aggregate.data.scenes import SCENE_MEAN, SCENE_SIZE, SCENE_STD, DigitScenes
from captum_extract_aggregate.evaluation.data_kinds import DATA_KINDS, PICTURES, SOME, own_kind
from captum_extract_aggregate.evaluation.images import Normalisation, Sample, Source
from captum_extract_aggregate.evaluation.plan import DataPlan


@dataclass(frozen=True)
class Opened:
    """Holds a data set: its functions take an item's index in it; `read` also the image's among those of the plan.

    `is_users` says that code of the user's own makes the items, which may draw, and change what a process has but one
    of.
    """

    count: int
    read: Callable[[int, int], Sample]
    name: Callable[[int], str]
    source: Callable[[int], Source]
    has_objects: bool = False
    classes: Sequence[str] = ()
    normalisation: Normalisation | None = None  # None: the plan's, or the model's
    is_users: bool = False


class Preprocess:
    """Makes a picture what the model takes. `subject` is the model, for data that is chosen by it."""

    def __init__(self, plan: DataPlan, subject: NamedModel) -> None:
        self.subject = subject
        self.size = plan.size or subject.size
        self.resize = plan.resize or _usual_resize(plan, subject)
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


def _usual_resize(plan: DataPlan, subject: NamedModel) -> str:
    """Returns what is done to pictures where the plan does not say it: what the model was trained on, or whole ones."""
    if plan.kind in ("voc", "coco"):
        return "short"
    return "square" if subject.is_square else "crop"


@own_kind("scenes", ("seed", "split", *SOME), tells=True)
def _scenes(plan: DataPlan, preprocess: Preprocess) -> Opened:
    count = plan.start + (plan.n or 100) * plan.every
    scenes = DigitScenes(count, plan.seed, plan.split)

    def read(index: int, i: int) -> Sample:
        x, target = scenes[index]
        labels = target["labels"]
        size = (SCENE_SIZE, SCENE_SIZE)
        masks = {c: mask_from_boxes(target["boxes"][labels == c], size) for c in sorted(set(labels.tolist()))}
        return Sample(i, name(index), x, int(labels[0]), pairs_of(masks, list(masks), size))

    def name(index: int) -> str:
        return f"scene {index}"

    normalisation: Normalisation = (SCENE_MEAN,), (SCENE_STD,)
    return Opened(count, read, name, lambda index: Source(), True, [str(digit) for digit in range(10)], normalisation)


@own_kind("voc", ("root", "year", "image_set", *PICTURES), needed=("root",))
def _voc(plan: DataPlan, preprocess: Preprocess) -> Opened:
    from torchvision.datasets import VOCDetection

    from captum_extract_aggregate.data.pointing_pairs import VOC_CLASSES

    data = VOCDetection(plan.root, plan.year, plan.image_set)

    def read(index: int, i: int) -> Sample:
        picture, annotation = data[index]
        pairs = voc_pairs(annotation)
        return Sample(i, name(index), preprocess(picture), _first(pairs), pairs)

    def name(index: int) -> str:
        return Path(data.images[index]).name

    def source(index: int) -> Source:
        return Source("", (Path(data.images[index]), Path(data.annotations[index])))

    return Opened(len(data), read, name, source, preprocess.resize != "crop", VOC_CLASSES)


@own_kind("coco", ("root", "file", *PICTURES), needed=("root", "file"))
def _coco(plan: DataPlan, preprocess: Preprocess) -> Opened:
    from torchvision.datasets import CocoDetection

    data = CocoDetection(plan.root, plan.file)
    categories = sorted(data.coco.getCatIds())

    def read(index: int, i: int) -> Sample:
        picture, annotations = data[index]
        pairs = coco_pairs(annotations, (picture.height, picture.width), categories)
        return Sample(i, name(index), preprocess(picture), _first(pairs), pairs)

    def name(index: int) -> str:
        return str(data.coco.loadImgs(data.ids[index])[0]["file_name"])

    def source(index: int) -> Source:
        annotations = data.coco.loadAnns(data.coco.getAnnIds(data.ids[index]))
        return Source(json.dumps([categories, annotations], sort_keys=True), (Path(data.root) / name(index),))

    classes = [category["name"] for category in data.coco.loadCats(categories)]
    return Opened(len(data), read, name, source, preprocess.resize != "crop", classes)


@own_kind("folder", ("root", *PICTURES), needed=("root",))
def _folder(plan: DataPlan, preprocess: Preprocess) -> Opened:
    from torchvision.datasets import ImageFolder

    root = Path(plan.root).expanduser()
    refuse_virtual(root)
    data = ImageFolder(plan.root)

    def read(index: int, i: int) -> Sample:
        path, label = data.samples[index]
        return Sample(i, name(index), preprocess(load_image(path)), label)

    def name(index: int) -> str:
        return str(Path(data.samples[index][0]).relative_to(root))

    def source(index: int) -> Source:
        path, label = data.samples[index]
        return Source(f"class {label}", (Path(path),))

    return Opened(len(data), read, name, source, classes=data.classes)


@own_kind("list", ("root", "file", *PICTURES), needed=("file",), tells=True)
def _list(plan: DataPlan, preprocess: Preprocess) -> Opened:
    path = Path(plan.file)
    if not is_file(path):
        raise InvalidValueError(f"data.file is {plan.file!r}, and there is no such file")
    root = Path(plan.root) if plan.root else path.parent
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidValueError(f"data.file is {plan.file!r}, which is no text in UTF-8 ({error})") from None
    entries = [_entry(line, n, plan.file) for n, line in enumerate(lines, 1) if line.strip()]

    def read(index: int, i: int) -> Sample:
        name, label = entries[index]
        return Sample(i, name, preprocess(load_image(root / name)), label)

    def source(index: int) -> Source:
        name, label = entries[index]
        return Source(f"class {label}", (root / name,))

    return Opened(len(entries), read, lambda index: entries[index][0], source)


def _entry(line: str, number: int, file: str) -> tuple[str, int]:
    name, *rest = line.rstrip("\n").split("\t")
    try:
        return name, int(rest[0]) if rest else -1
    except ValueError:
        raise InvalidValueError(
            f"line {number} of {file!r} is {line!r}; expected a path, a tab and a class index"
        ) from None


@own_kind("custom", ("dataset", "arguments", *PICTURES), needed=("dataset",), tells=True)
def _custom(plan: DataPlan, preprocess: Preprocess) -> Opened:
    return _of_items(build_from("data.dataset", plan.dataset, **plan.arguments), repr(plan.dataset), preprocess)


def registered(plan: DataPlan, preprocess: Preprocess) -> Opened:
    """Opens the data set that a user's registered function makes."""
    make = DATA_KINDS[plan.kind].make
    assert make is not None
    try:
        data = make(**plan.arguments)
    except Exception as error:
        told = f"{error!r}{place_of(error)}"
        raise InvalidValueError(f"data.kind is {plan.kind!r}, whose function failed: {told}") from error
    return _of_items(data, repr(plan.kind), preprocess)


def _of_items(data: Any, what: str, preprocess: Preprocess) -> Opened:
    """Returns a user's data set, item by item."""
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise InvalidValueError(
            f"data.dataset is {what}, which returned a {type(data).__name__}; expected a data set with a length"
        )

    def read(index: int, i: int) -> Sample:
        item = data[index]
        x, about = item if isinstance(item, (tuple, list)) and len(item) == 2 else (item, None)
        x = preprocess(to_rgb(x)) if isinstance(x, Image.Image) else x
        if not isinstance(x, Tensor) or x.ndim != 3 or not x.is_floating_point():
            raise InvalidValueError(
                f"the data set gives {type(x).__name__}; expected a normalised float tensor C x H x W, or a PIL picture"
            )
        if isinstance(about, PointingPairs):
            return Sample(i, f"image {index}", x, _first(about), about)
        return Sample(i, f"image {index}", x, -1 if about is None else int(about))

    first = _first_item(data)
    has_objects = isinstance(first, (tuple, list)) and len(first) == 2 and isinstance(first[1], PointingPairs)
    is_cropped = preprocess.resize == "crop" and isinstance(first[0], Image.Image) if has_objects else False
    return Opened(
        len(data),
        read,
        lambda index: f"image {index}",
        lambda index: Source(files=None),
        has_objects and not is_cropped,
        is_users=True,
    )


def _first_item(data: Any) -> Any:
    for index in range(min(len(data), 20)):
        with contextlib.suppress(Exception):  # unreadable ones are told of when their turn comes
            return data[index]
    return None


def _first(pairs: PointingPairs) -> int:
    return pairs.classes[0] if pairs.classes else -1
