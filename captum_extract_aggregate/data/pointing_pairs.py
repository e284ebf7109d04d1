"""Image-class pairs of annotated data sets, as the pointing game needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidValueError

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_DIFFICULT_AREA = 0.25  # of the image, below which an object among others counts as difficult


@dataclass(frozen=True)
class PointingPairs:
    """Holds the classes present in one image: their indices, masks (K x H x W booleans) and whether each is difficult.

    A pair is difficult if the class covers less than a quarter of the image and at least one other class is there.
    """

    classes: list[int]
    masks: Tensor
    difficult: list[bool]


def mask_from_boxes(boxes: Tensor | Sequence[Sequence[float]], size: tuple[int, int]) -> Tensor:
    """Returns the pixels inside any of the boxes, `H x W` booleans.

    Boxes are `x0, y0, x1, y1`, rounded to whole pixels; pixel x, counted from 0, lies inside if `x0 <= x < x1`.
    """
    mask = torch.zeros(size, dtype=torch.bool)
    for x0, y0, x1, y1 in torch.as_tensor(boxes, dtype=torch.float64).reshape(-1, 4).tolist():
        rows, columns = slice(max(0, round(y0)), max(0, round(y1))), slice(max(0, round(x0)), max(0, round(x1)))
        mask[rows, columns] = True
    return mask


def mask_from_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> Tensor:
    """Returns the pixels inside any of the polygons (`x0, y0, x1, y1, ...` each), outlines included; `H x W`
    booleans."""
    picture = Image.new("1", (size[1], size[0]))
    draw = ImageDraw.Draw(picture)
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise InvalidValueError(f"a polygon has {len(polygon)} numbers; expected x and y of three corners or more")
        draw.polygon([float(v) for v in polygon], fill=1, outline=1)
    return torch.from_numpy(np.array(picture, dtype=bool))


def voc_pairs(annotation: Mapping[str, Any], classes: Sequence[str] = VOC_CLASSES) -> PointingPairs:
    """Returns the pairs of an annotation of torchvision's `VOCDetection`.

    A class's mask is all of its boxes; a class whose boxes are all marked difficult by VOC is left out. VOC's corners
    count from 1 and are part of the box.

    Example:
        >>> from captum_extract_aggregate.data import voc_pairs
        >>> box = {"xmin": "1", "ymin": "1", "xmax": "2", "ymax": "3"}
        >>> size = {"width": "4", "height": "5", "depth": "3"}
        >>> pairs = voc_pairs({"annotation": {"size": size, "object": [{"name": "dog", "bndbox": box}]}})
        >>> pairs.classes, int(pairs.masks.sum()), pairs.difficult
        ([11], 6, [False])
    """
    content = annotation["annotation"]
    size = int(content["size"]["height"]), int(content["size"]["width"])
    boxes: dict[int, list[list[float]]] = {}
    easy: set[int] = set()
    for item in content["object"]:
        if item["name"] not in classes:
            raise InvalidValueError(f"the annotation names a {item['name']!r}; expected one of {', '.join(classes)}")
        index, corners = list(classes).index(item["name"]), item["bndbox"]
        box = [float(corners["xmin"]) - 1, float(corners["ymin"]) - 1, float(corners["xmax"]), float(corners["ymax"])]
        boxes.setdefault(index, []).append(box)
        if item.get("difficult", "0") != "1":
            easy.add(index)
    masks = {index: mask_from_boxes(b, size) for index, b in boxes.items()}
    return pairs_of(masks, sorted(easy), size)


def coco_pairs(
    annotations: Sequence[Mapping[str, Any]], size: tuple[int, int], categories: Sequence[int]
) -> PointingPairs:
    """Returns the pairs of the annotations that torchvision's `CocoDetection` gives for one image of `size` (height,
    width).

    A class's mask is all of its segments; `categories` lists COCO's category ids in the order of the model's classes.
    A class of which there are only crowd annotations is left out.
    """
    masks: dict[int, Tensor] = {}
    easy: set[int] = set()
    for item in annotations:
        if item["category_id"] not in categories:
            raise InvalidValueError(
                f"category id {item['category_id']} is not among categories; expected all ids of the data"
            )
        index = list(categories).index(item["category_id"])
        mask = _segments(item["segmentation"], size)
        masks[index] = masks[index] | mask if index in masks else mask
        if not item.get("iscrowd", 0):
            easy.add(index)
    return pairs_of(masks, sorted(easy), size)


def _segments(segmentation: Any, size: tuple[int, int]) -> Tensor:
    if isinstance(segmentation, list):
        return mask_from_polygons(segmentation, size)
    from pycocotools import mask as coco_mask  # CocoDetection needs it too

    if isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, *size)
    return torch.from_numpy(coco_mask.decode(segmentation)).bool()


def pairs_of(masks: Mapping[int, Tensor], kept: list[int], size: tuple[int, int]) -> PointingPairs:
    """Returns the pairs of the classes `kept`, from the masks of all classes that are there."""
    few = len(masks) < 2
    difficult = [not few and float(masks[i].double().mean()) < _DIFFICULT_AREA for i in kept]
    stacked = torch.stack([masks[i] for i in kept]) if kept else torch.zeros(0, *size, dtype=torch.bool)
    return PointingPairs(kept, stacked, difficult)
