"""The networks and pictures of class_competition.py and measure_agreement.py."""

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


# Classes of ImageNet below those of PASCAL VOC (there is none below "person").
IMAGENET = {
    "aeroplane": [404, 895],
    "bicycle": [444, 671],
    "bird": [*range(7, 25), *range(80, 101), *range(127, 147)],
    "boat": [472, 484, 554, 576, 625, 780, 814, 871, 914],
    "bottle": [440, 720, 737, 898, 899, 907],
    "bus": [654, 779, 874],
    "car": [407, 436, 468, 511, 609, 627, 656, 661, 751, 817],
    "cat": [*range(281, 286)],
    "chair": [423, 559, 765],
    "cow": [345],
    "diningtable": [532],
    "dog": [*range(151, 269)],
    "horse": [339],
    "motorbike": [665, 670],
    "pottedplant": [738],
    "sheep": [348, 349],
    "sofa": [831],
    "train": [466, 547, 705, 820],
    "tvmonitor": [664, 782, 851],
}


class OfClasses(nn.Module):
    """A network of ImageNet's classes as one of PASCAL VOC's: the log of the summed probability of those below each."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        log_p = self.net(x).log_softmax(1)
        found = [
            log_p[:, IMAGENET[c]].logsumexp(1) if c in IMAGENET else torch.full_like(log_p[:, 0], -100)
            for c in VOC_CLASSES
        ]
        return torch.stack(found, 1)


def of_objects(name: str, device: str = "cpu") -> nn.Module:
    """Returns a network of the classes of `objects`; the layers of photographs' networks are in `net`."""
    if name == "scene ResNet":
        return network(name, device)
    plain = network(name, device)
    network.cache_clear()  # a head may be taken off
    made = OfClasses(plain) if name == "EfficientNet-Lite0" else OfFeatures(name, plain)
    return made.to(device).eval()


@functools.cache
def network(name: str, device: str = "cpu") -> nn.Module:
    """Returns a network by its name here, in eval mode."""
    if name == "scene ResNet":
        return cea.load_scene_model("resnet").to(device)
    made: nn.Module
    if name == "EfficientNet-Lite0":
        import timm

        made = timm.create_model("tf_efficientnet_lite0")
    elif name == "ViT-Tiny":
        made = torchvision.models.VisionTransformer(SIDE, 16, 12, 3, 192, 768)
    else:
        made = {"SqueezeNet": torchvision.models.squeezenet1_1, "MobileNetV2": torchvision.models.mobilenet_v2}[name]()
    made.load_state_dict(torch.load(DATA / "models" / FILES[name], weights_only=True), strict=True)
    return made.to(device).eval()


def normalised(pixels: Tensor, name: str) -> Tensor:
    """Returns pixels in [0, 1] as a network wants them."""
    if name in ("EfficientNet-Lite0", "ViT-Tiny"):
        return (pixels - 0.5) / 0.5
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (pixels - mean[:, None, None]) / std[:, None, None]


def listed() -> list[tuple[str, int]]:
    """Returns the photographs of ImageNet's classes that there are, one a class."""
    folder = DATA / "imagenet_sample"
    lines = [line.split("\t") for line in (folder / "labels.tsv").read_text().splitlines()]
    return [(file, int(index)) for file, index, *_ in lines if index.isdigit() and (folder / file).exists()]


def chosen(ordinary: bool) -> list[tuple[str, int]]:
    """Returns the photographs of every tenth class, or the others."""
    return [(file, index) for file, index in listed() if (index % 10 == 0) == ordinary]


def opened(files: list[tuple[str, int]]) -> Tensor:
    """Returns photographs `N x 3 x 224 x 224` in [0, 1]."""
    images = [Image.open(DATA / "imagenet_sample" / file).convert("RGB") for file, _ in files]
    return torch.stack([to_tensor(center_crop(resize(image, SIDE), [SIDE, SIDE])) for image in images])


def digit_scenes(n: int) -> tuple[Tensor, Tensor]:
    """Returns scenes with one digit each, of which the network is sure; a quarter of them of each of four groups of
    digits."""
    found: list[list[tuple[Tensor, int]]] = [[] for _ in range(4)]
    group, seed = (0, 0, 0, 1, 1, 2, 2, 2, 3, 3), 700
    while min(map(len, found)) < n // 4:
        for image, target in (cea.DigitScenes(200, seed=seed)[i] for i in range(200)):
            if len(target["labels"]) == 1:
                digit = int(target["labels"][0])
                with torch.no_grad():
                    z = network("scene ResNet")(image[None])[0]
                if int(z.argmax()) == digit and float(z.sigmoid().max()) > 0.9:
                    found[group[digit]].append((image, digit))
        seed += 1
    taken = [pair for pairs in found for pair in pairs[: n // 4]]
    return torch.stack([image for image, _ in taken]), torch.tensor([digit for _, digit in taken])


def halved(images: Tensor) -> Tensor:
    """Returns pictures at the size of a grid's cell."""
    return F.interpolate(images, (SIDE // 2, SIDE // 2), mode="bilinear", antialias=True)


def confidence(name: str, small: Tensor, classes: Tensor) -> Tensor:
    """Returns a network's probability of the class of pictures of a cell's size."""
    found = []
    with torch.no_grad():
        for some, own in zip(small.split(50), classes.split(50)):
            again = F.interpolate(normalised(some, name), (SIDE, SIDE), mode="bilinear")
            found.append(network(name)(again).softmax(1).gather(1, own[:, None])[:, 0])
    return torch.cat(found)


def surest(n: int) -> list[tuple[str, int]]:
    """Returns the photographs, of those that are not of every tenth class, of which the least sure of the networks is
    surest at the size of a cell."""
    files = chosen(ordinary=False)
    if len(files) <= n:
        return files
    sure = []
    for start in range(0, len(files), 100):
        some = files[start : start + 100]
        small, classes = halved(opened(some)), torch.tensor([index for _, index in some])
        sure.append(torch.stack([confidence(name, small, classes) for name in FILES]).amin(0))
    return [files[i] for i in sorted(torch.cat(sure).argsort(descending=True)[:n].tolist())]


def cells(name: str, n: int) -> tuple[Tensor, Tensor]:
    """Returns n pictures for the cells of grids, as the network wants them, and their classes."""
    if name == "scene ResNet":
        return digit_scenes(n)
    files = surest(n)
    return normalised(halved(opened(files)), name), torch.tensor([index for _, index in files])


@dataclass
class Grids:
    """As many grids of four pictures as there are pictures: each is in four of them, in every corner once.

    `x` are the grids, `classes` those of their cells and `members` which pictures these are, `N x 4`.
    """

    x: Tensor
    classes: Tensor
    members: Tensor


def grids(name: str, n: int) -> Grids:
    """Returns n grids of n pictures (n a multiple of 4), whose cells are of different classes."""
    images, classes = cells(name, n)
    quarters = torch.arange(len(images)).reshape(4, -1)
    drawing = torch.Generator().manual_seed(0)
    rounds = []
    for corner in range(4):  # a picture of the first quarter is in this corner
        mixed = [q[torch.randperm(len(q), generator=drawing)] for q in quarters]
        rounds.append(torch.stack(mixed, 1).roll(corner, 1))
    members = torch.cat(rounds)
    a, b, c, d = (images[members[:, i]] for i in range(4))
    return Grids(torch.cat([torch.cat([a, b], 3), torch.cat([c, d], 3)], 2), classes[members], members)


@dataclass
class Pictured:
    """One picture, the classes of its objects and where they are."""

    x: Tensor
    classes: list[int]
    masks: Tensor
    tolerance: float
    file: str = ""


def objects(name: str, n: int) -> Iterator[Pictured]:
    """Yields pictures whose objects are known to the pixel."""
    if name == "scene ResNet":
        for image, target in (cea.DigitScenes(n, seed=500)[i] for i in range(n)):
            classes = sorted(set(target["labels"].tolist()))
            masks = [target["masks"][target["labels"] == c].any(0) for c in classes]
            yield Pictured(image[None], classes, torch.stack(masks), 4)
        return
    yield from photographed(name, "coco128", n)


def photographed(name: str, folder: str, n: int) -> Iterator[Pictured]:
    """Yields those of a folder's first n photographs whose objects are of the network's classes."""
    found = json.loads((DATA / folder / "instances_val2017.json").read_text())
    other = {"aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle", "sofa": "couch"}
    other |= {"pottedplant": "potted plant", "tvmonitor": "tv"}
    of_id = {c["id"]: c["name"] for c in found["categories"]}
    voc = {
        i: v for v, voc_name in enumerate(VOC_CLASSES) for i, c in of_id.items() if c == other.get(voc_name, voc_name)
    }
    if name == "EfficientNet-Lite0":
        voc = {i: v for i, v in voc.items() if VOC_CLASSES[v] in IMAGENET}
    for image in found["images"][:n]:
        polygons = defaultdict(list)
        for note in found["annotations"]:
            if (
                note["image_id"] == image["id"]
                and note["category_id"] in voc
                and isinstance(note["segmentation"], list)
            ):
                polygons[voc[note["category_id"]]] += note["segmentation"]
        file = DATA / folder / "val2017" / image["file_name"]
        if polygons and file.exists():
            picture = Image.open(file).convert("RGB")
            size = image["height"], image["width"]  # of the polygons; the picture may be kept at the network's size
            masks = torch.stack([mask_from_polygons(polygons[c], size) for c in sorted(polygons)])
            x = normalised(to_tensor(resize(picture, [SIDE, SIDE])), name)[None]
            masks = F.interpolate(masks[None].float(), (SIDE, SIDE))[0] > 0.5
            kept = masks.flatten(1).any(1)
            if bool(kept.any()):
                yield Pictured(x, [c for c, k in zip(sorted(polygons), kept) if k], masks[kept], 15, file.name)


def ordinary(name: str, n: int) -> Tensor:
    """Returns pictures that were not chosen for what the network says of them, as many as there are of n."""
    if name == "scene ResNet":
        return torch.stack([cea.DigitScenes(n, seed=600)[i][0] for i in range(n)])
    files = chosen(ordinary=True)
    images = [normalised(opened(files[:: max(1, len(files) // n)][:n]), name)]
    if n > len(files):  # COCO's for the rest
        images += [pictured.x for _, pictured in zip(range(n - len(files)), objects(name, 128))]
    return torch.cat(images)


@dataclass
class Decided:
    """Pictures of which the network says one of their classes: the pictures, the classes, and where their objects are,
    `N x 224 x 224`."""

    x: Tensor
    classes: Tensor
    masks: Tensor
    files: list[str]


def deciding(name: str, device: str = "cpu") -> nn.Module:
    """Returns the network whose decisions `decided` knows: of ImageNet's classes where it has no head of others."""
    return network(name, device) if name == "EfficientNet-Lite0" else of_objects(name, device)


def decided(name: str, n: int) -> Decided:
    """Returns at most n photographs whose objects are known and of which the network says one."""
    model, kept = deciding(name), []
    for pictured in (p for folder in ("coco128", "coco") for p in photographed(name, folder, 128)):
        if len(kept) == n:
            break
        with torch.no_grad():
            said = int(model(pictured.x).argmax(1))
        if name == "EfficientNet-Lite0":
            own = [c for c in pictured.classes if said in IMAGENET[VOC_CLASSES[c]]]
        else:
            own = [c for c in pictured.classes if said == c]
        if own:
            kept.append((pictured.x[0], said, pictured.masks[pictured.classes.index(own[0])], pictured.file))
    x, classes, masks, files = zip(*kept)
    return Decided(torch.stack(x), torch.tensor(classes), torch.stack(masks), list(files))
