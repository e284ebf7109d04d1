"""The images of a plan, as the model takes them, with what is known of their objects."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from captum_extract_aggregate._common.errors import InvalidValueError, is_file
from captum_extract_aggregate._common.imported import build_from
from captum_extract_aggregate.data.image_files import load_image, refuse_virtual, to_rgb
from captum_extract_aggregate.data.models_by_name import NamedModel
from captum_extract_aggregate.data.pointing_pairs import PointingPairs, coco_pairs, mask_from_boxes, pairs_of, voc_pairs
from captum_extract_aggregate.data.scenes import SCENE_MEAN, SCENE_SIZE, SCENE_STD, DigitScenes
from captum_extract_aggregate.evaluation.data_kinds import DATA_KINDS, PICTURES, SOME, own_kind
from captum_extract_aggregate.evaluation.guard import undisturbed
from captum_extract_aggregate.evaluation.plan import DataPlan, given

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


class UnreadableError(InvalidValueError):
    """An image that cannot be read."""


@dataclass(frozen=True)
class Sample:
    """One image: its index, name, input `C x H x W`, class (-1: unknown), and objects (None: unknown)."""

    image: int
    name: str
    x: Tensor
    label: int = -1
    pairs: PointingPairs | None = None


class Source(NamedTuple):
    """What an image is made of: files, and `about`, what is known of it from elsewhere (its class, annotations).

    `files` is None where nothing is known but by reading it.
    """

    about: str = ""
    files: tuple[Path, ...] | None = ()


@dataclass(frozen=True)
class Images:
    """The images of a plan: how many, functions that read one, name it and say what it is made of, and whether objects
    (or whole images) are known."""

    count: int
    read: Callable[[int], Sample]
    name: Callable[[int], str]
    source: Callable[[int], Source]
    has_objects: bool
    classes: tuple[str, ...]
    normalisation: Normalisation

    def picture(self, x: Tensor) -> Tensor:
        """Returns the input as a picture in [0, 1]."""
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in self.normalisation)
        return (x.cpu() * std + mean).clamp(0, 1)


def open_images(plan: DataPlan, subject: NamedModel) -> Images:
    """Finds the data set; raises ValueError with one clear line if it is not there."""
    check_applies(plan)
    kind = DATA_KINDS[plan.kind]
    try:
        with undisturbed():
            preprocess = _Preprocess(plan, subject)
            opened = kind.open(plan, preprocess) if kind.open is not None else _registered(plan, preprocess)
    except ValueError as error:
        if kind.tells or kind.make is not None:
            raise
        raise _not_opened(plan, error) from None
    except Exception as error:  # whatever the data set's own code raises
        raise _not_opened(plan, error) from None
    indices = range(plan.start, opened.count, plan.every)
    indices = indices[: plan.n] if plan.n else indices
    if not indices:
        raise InvalidValueError(
            f"data.start is {plan.start}, but there are {opened.count} images; expected at least one to be left"
        )
    normalisation: Normalisation = (SCENE_MEAN,), (SCENE_STD,)
    if plan.kind != "scenes":
        normalisation = plan.mean or subject.mean, plan.std or subject.std

    def read_chosen(i: int) -> Sample:
        try:
            with undisturbed():
                return opened.read(indices[i], i)
        except Exception as error:  # whatever a damaged file, or the data set's own code, raises
            what = error if isinstance(error, (OSError, ValueError)) else repr(error)
            raise UnreadableError(f"image {i} cannot be read: {what}") from error

    return Images(
        len(indices),
        read_chosen,
        lambda i: storable(opened.name(indices[i])),
        lambda i: opened.source(indices[i]),
        opened.has_objects,
        tuple(opened.classes),
        normalisation,
    )


def check_applies(data: DataPlan) -> None:
    """Raises our error for a key that says nothing of data of this kind: it would be ignored."""
    for name, value in given(data).items():
        if name not in ("kind", *DATA_KINDS[data.kind].keys):
            raise InvalidValueError(
                f"data.{name} is {value!r}, but does not apply to data of the kind {data.kind!r}; "
                f"expected it left out (there are {', '.join(DATA_KINDS[data.kind].keys)})"
            )


def storable(text: str) -> str:
    """Returns a name as UTF-8 can hold it: files may have names that are no text."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True)
class _Opened:
    """A data set: its functions take an item's index in it; `read` also the image's among those of the plan."""

    count: int
    read: Callable[[int, int], Sample]
    name: Callable[[int], str]
    source: Callable[[int], Source]
    has_objects: bool = False
    classes: Sequence[str] = ()


class _Preprocess:
    """A picture as the model takes it."""

    def __init__(self, plan: DataPlan, subject: NamedModel) -> None:
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
def _scenes(plan: DataPlan, preprocess: _Preprocess) -> _Opened:
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

    return _Opened(count, read, name, lambda index: Source(), True, [str(digit) for digit in range(10)])


@own_kind("voc", ("root", "year", "image_set", *PICTURES), needed=("root",))
def _voc(plan: DataPlan, preprocess: _Preprocess) -> _Opened:
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

    return _Opened(len(data), read, name, source, preprocess.resize != "crop", VOC_CLASSES)


@own_kind("coco", ("root", "file", *PICTURES), needed=("root", "file"))
def _coco(plan: DataPlan, preprocess: _Preprocess) -> _Opened:
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
    return _Opened(len(data), read, name, source, preprocess.resize != "crop", classes)


@own_kind("folder", ("root", *PICTURES), needed=("root",))
def _folder(plan: DataPlan, preprocess: _Preprocess) -> _Opened:
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

    return _Opened(len(data), read, name, source, classes=data.classes)


@own_kind("list", ("root", "file", *PICTURES), needed=("file",), tells=True)
def _list(plan: DataPlan, preprocess: _Preprocess) -> _Opened:
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

    return _Opened(len(entries), read, lambda index: entries[index][0], source)


def _entry(line: str, number: int, file: str) -> tuple[str, int]:
    name, *rest = line.rstrip("\n").split("\t")
    try:
        return name, int(rest[0]) if rest else -1
    except ValueError:
        raise InvalidValueError(
            f"line {number} of {file!r} is {line!r}; expected a path, a tab and a class index"
        ) from None


@own_kind("custom", ("dataset", "arguments", *PICTURES), needed=("dataset",), tells=True)
def _custom(plan: DataPlan, preprocess: _Preprocess) -> _Opened:
    return _of_items(build_from("data.dataset", plan.dataset, **plan.arguments), repr(plan.dataset), preprocess)


DATA_KINDS.seal()


def _registered(plan: DataPlan, preprocess: _Preprocess) -> _Opened:
    make = DATA_KINDS[plan.kind].make
    assert make is not None
    try:
        data = make(**plan.arguments)
    except Exception as error:
        raise InvalidValueError(f"data.kind is {plan.kind!r}, whose function failed: {error!r}") from error
    return _of_items(data, repr(plan.kind), preprocess)


def _of_items(data: Any, what: str, preprocess: _Preprocess) -> _Opened:
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
    return _Opened(
        len(data),
        read,
        lambda index: f"image {index}",
        lambda index: Source(files=None),
        has_objects and not is_cropped,
    )


def _first_item(data: Any) -> Any:
    for index in range(min(len(data), 20)):
        with contextlib.suppress(Exception):  # unreadable ones are told of when their turn comes
            return data[index]
    return None


def _not_opened(plan: DataPlan, error: Exception) -> ValueError:
    where = f"root {plan.root!r}" + (f" and file {plan.file!r}" if plan.file else "")
    return InvalidValueError(f"data of the kind {plan.kind!r} cannot be opened with {where}: {error!r}")


def _first(pairs: PointingPairs) -> int:
    return pairs.classes[0] if pairs.classes else -1


def to_image_size(map_: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Returns a map `N x 1 x h x w` at the image's size."""
    if tuple(map_.shape[2:]) == size:
        return map_
    if interpolation == "nearest":
        return F.interpolate(map_, size, mode="nearest")
    return F.interpolate(map_, size, mode="bilinear", align_corners=False)


# --- What an image was when its results were computed ----------------------------------------------------------------


def content_of(images: Images, i: int, sample: Sample | None) -> tuple[str, str]:
    """Returns a digest of all that image i is made of, and the state of its files, which tells whether they may have
    changed.

    `sample` is None for one that cannot be read.
    """
    source = images.source(i)
    if source.files is None:
        return _digest(_parts_of(sample) if sample is not None else [b"unreadable"]), ""
    stamp = stamp_of(source)
    return _digest([source.about.encode(), *(_bytes_of(path) for path in source.files)]), stamp


def stamp_of(source: Source) -> str:
    """Sizes, times and places on the disk of an image's files, and what is known of it; "" if that proves nothing."""
    if not source.files or os.name == "nt":  # where the time of a file's last change is not known
        return ""
    try:
        states = [path.stat() for path in source.files]
    except OSError:
        return ""
    times = [(s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev) for s in states]
    return _digest([source.about.encode(), repr(times).encode()])


def _digest(parts: Sequence[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _bytes_of(path: Path) -> bytes:
    try:
        return b"+" + path.read_bytes() if path.is_file() else b"missing"
    except OSError:
        return b"unreadable"


def _parts_of(sample: Sample) -> list[bytes]:
    x = sample.x.detach().cpu().contiguous()
    parts = [f"{x.dtype} {tuple(x.shape)} {sample.label}".encode(), x.flatten().view(torch.uint8).numpy().tobytes()]
    if sample.pairs is not None:
        pairs = sample.pairs
        parts += [repr((pairs.classes, pairs.difficult)).encode(), pairs.masks.cpu().numpy().tobytes()]
    return parts
