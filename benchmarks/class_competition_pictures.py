"""The networks and pictures of class_competition.py."""

from __future__ import annotations

import functools
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import center_crop, resize, to_tensor

import captum_extract_aggregate as cea
from captum_extract_aggregate.data.pointing_pairs import VOC_CLASSES, mask_from_polygons

DATA = Path(os.environ.get("CEA_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
SIDE = 224
FILES = {
    "SqueezeNet": "squeezenet1_1-imagenet.pth",
    "MobileNetV2": "mobilenet_v2-imagenet.pth",
    "ViT-Tiny": "vit_tiny_patch16_224-imagenet.pth",
    "EfficientNet-Lite0": "tf_efficientnet_lite0-imagenet.pth",
}


class OfFeatures(nn.Module):
    """A network's features under a linear multi-label head for the classes of PASCAL VOC."""

    def __init__(self, name: str, net: Any) -> None:
        super().__init__()
        head = torch.load(
            DATA / "models" / FILES[name].replace("_patch16_224", "").replace("-imagenet", "-voc-head"),
            weights_only=True,
        )
        self.kind, self.head = name, nn.Linear(head["weight"].shape[1], 20)
        self.head.load_state_dict({"weight": head["weight"], "bias": head["bias"]})
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "ViT-Tiny":
            self.net.heads = nn.Identity()
            return self.head(self.net(x))  # type: ignore[no-any-return]
        return self.head(self.net.features(x).mean((2, 3)))  # type: ignore[no-any-return]


@functools.cache
def network(name: str) -> nn.Module:
    """Returns a network by its name here, in eval mode."""
    if name == "scene ResNet":
        return cea.load_scene_model("resnet")
    made: nn.Module
    if name == "EfficientNet-Lite0":
        import timm

        made = timm.create_model("tf_efficientnet_lite0")
    elif name == "ViT-Tiny":
        made = torchvision.models.VisionTransformer(SIDE, 16, 12, 3, 192, 768)
    else:
        made = {"SqueezeNet": torchvision.models.squeezenet1_1, "MobileNetV2": torchvision.models.mobilenet_v2}[name]()
    made.load_state_dict(torch.load(DATA / "models" / FILES[name], weights_only=True), strict=True)
    return made.eval()


def normalised(pixels: Tensor, name: str) -> Tensor:
    """Returns pixels in [0, 1] as a network wants them."""
    if name in ("EfficientNet-Lite0", "ViT-Tiny"):
        return (pixels - 0.5) / 0.5
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (pixels - mean[:, None, None]) / std[:, None, None]


@functools.cache
def photographs() -> tuple[Tensor, Tensor]:
    """Returns pictures of every fourth class, `N x 3 x 224 x 224` in [0, 1], and their classes."""
    images, classes = [], []
    for line in (DATA / "imagenet_sample" / "labels.tsv").read_text().splitlines()[::4]:
        file, index = line.split("\t")[:2]
        if index.isdigit():
            picture = Image.open(DATA / "imagenet_sample" / file).convert("RGB")
            images.append(to_tensor(center_crop(resize(picture, SIDE), [SIDE, SIDE])))
            classes.append(int(index))
    return torch.stack(images), torch.tensor(classes)


def single_digit_scenes(n: int) -> tuple[Tensor, Tensor]:
    """Returns scenes with one digit each, of which the network is sure."""
    images, classes, seed = [], [], 700
    while len(images) < n:
        for image, target in (cea.DigitScenes(200, seed=seed)[i] for i in range(200)):
            if len(target["labels"]) == 1:
                with torch.no_grad():
                    z = network("scene ResNet")(image[None])[0]
                if int(z.argmax()) == int(target["labels"][0]) and float(z.sigmoid().max()) > 0.9:
                    images.append(image)
                    classes.append(int(target["labels"][0]))
        seed += 1
    return torch.stack(images[:n]), torch.tensor(classes[:n])


def cells(name: str, n: int) -> tuple[Tensor, Tensor]:
    """Returns pictures for the cells of n grids, as the network wants them, and their classes: those of which it is
    surest at the size of a cell."""
    if name == "scene ResNet":
        return single_digit_scenes(8 * n)
    images, classes = photographs()
    small = F.interpolate(images, (SIDE // 2, SIDE // 2), mode="bilinear", antialias=True)
    sure = []
    with torch.no_grad():
        for some, own in zip(small.split(50), classes.split(50)):
            again = F.interpolate(normalised(some, name), (SIDE, SIDE), mode="bilinear")
            sure.append(network(name)(again).softmax(1).gather(1, own[:, None])[:, 0])
    surest = torch.cat(sure).argsort(descending=True)[: 4 * n]
    return normalised(small[surest], name), classes[surest]


def grids(name: str, n: int) -> tuple[Tensor, Tensor]:
    """Returns n pictures of four cells, each of another class, and the classes of their cells."""
    images, classes = cells(name, n)
    left = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
    made, of_cells = [], []
    while len(made) < n:
        four: list[int] = []
        for i in left:
            if len(four) < 4 and int(classes[i]) not in {int(classes[j]) for j in four}:
                four.append(i)
        if len(four) < 4:
            break
        left = [i for i in left if i not in four]
        a, b, c, d = (images[i] for i in four)
        made.append(torch.cat([torch.cat([a, b], 2), torch.cat([c, d], 2)], 1))
        of_cells.append(classes[four])
    return torch.stack(made), torch.stack(of_cells)


@dataclass
class Pictured:
    """One picture, the classes of its objects and where they are."""

    x: Tensor
    classes: list[int]
    masks: Tensor
    tolerance: float


def objects(name: str, n: int) -> Iterator[Pictured]:
    """Yields pictures whose objects are known to the pixel."""
    if name == "scene ResNet":
        for image, target in (cea.DigitScenes(n, seed=500)[i] for i in range(n)):
            classes = sorted(set(target["labels"].tolist()))
            masks = [target["masks"][target["labels"] == c].any(0) for c in classes]
            yield Pictured(image[None], classes, torch.stack(masks), 4)
        return
    found = json.loads((DATA / "coco128" / "instances_val2017.json").read_text())
    other = {"aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle", "sofa": "couch"}
    other |= {"pottedplant": "potted plant", "tvmonitor": "tv"}
    of_id = {c["id"]: c["name"] for c in found["categories"]}
    voc = {
        i: v for v, voc_name in enumerate(VOC_CLASSES) for i, c in of_id.items() if c == other.get(voc_name, voc_name)
    }
    for image in found["images"][:n]:
        polygons = defaultdict(list)
        for note in found["annotations"]:
            if (
                note["image_id"] == image["id"]
                and note["category_id"] in voc
                and isinstance(note["segmentation"], list)
            ):
                polygons[voc[note["category_id"]]] += note["segmentation"]
        if polygons:
            picture = Image.open(DATA / "coco128" / "val2017" / image["file_name"]).convert("RGB")
            size = picture.height, picture.width
            masks = torch.stack([mask_from_polygons(polygons[c], size) for c in sorted(polygons)])
            x = normalised(to_tensor(resize(picture, [SIDE, SIDE])), name)[None]
            masks = F.interpolate(masks[None].float(), (SIDE, SIDE))[0] > 0.5
            kept = masks.flatten(1).any(1)
            if bool(kept.any()):
                yield Pictured(x, [c for c, k in zip(sorted(polygons), kept) if k], masks[kept], 15)


def ordinary(name: str, n: int) -> Tensor:
    """Returns pictures that were not chosen."""
    if name == "scene ResNet":
        return torch.stack([cea.DigitScenes(n, seed=600)[i][0] for i in range(n)])
    images = photographs()[0]
    return normalised(images[:: len(images) // n][:n], name)
