"""Does class competition help, or does it only look so? The numbers; class_competition_page.py makes the page of them.

    python benchmarks/class_competition.py FOLDER              # every part that FOLDER does not hold yet
    python benchmarks/class_competition_page.py FOLDER         # docs/class_competition_study.md and its picture

Networks: the embedded scene ResNet, and those of the folder named by CEA_DATA (default ../shared/data). A part is one
network and one question; it is written when it is done, so that a run can be stopped and taken up again. About half an
hour of one core.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
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
from captum_extract_aggregate.metrics import pointing_game, removal_contrast
from captum_extract_aggregate.metrics.pointing_game import centre_map
from captum_extract_aggregate.metrics.randomization import randomization_stages, randomized
from captum_extract_aggregate.metrics.similarity import null_baseline, spearman

DATA = Path(os.environ.get("CEA_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
SIDE, SCENE = 224, 96
METHODS: dict[str, Any] = {
    "GradCAM": cea.GradCAM,
    "NormGrad": cea.NormGrad,
    "linear approximation": cea.LinearApproximation,
    "GradCAM_Pos": cea.GradCAMPos,
}
VARIANTS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "literal": {"normalize": False},
    "normalized": {"normalize": True},
}
FILES = {
    "SqueezeNet": "squeezenet1_1-imagenet.pth",
    "MobileNetV2": "mobilenet_v2-imagenet.pth",
    "ViT-Tiny": "vit_tiny_patch16_224-imagenet.pth",
    "EfficientNet-Lite0": "tf_efficientnet_lite0-imagenet.pth",
}
LAYERS = {
    "scene ResNet": ["layer2", "layer3", "layer4"],
    "EfficientNet-Lite0": ["blocks.2", "blocks.4", "blocks.6"],
    "SqueezeNet": ["features.5", "features.9", "features.12"],
    "ViT-Tiny": [f"encoder.layers.encoder_layer_{i}" for i in (5, 8, 10)],
    "MobileNetV2": ["features.6", "features.13", "features.17"],
}
STAGES = {  # what is randomised: the head, and then nearly everything
    "scene ResNet": ["fc", "layer4", "layer3", "layer2", "layer1"],
    "SqueezeNet": ["classifier", "features"],
    "MobileNetV2": ["classifier", "features"],
    "EfficientNet-Lite0": ["classifier", "blocks"],
    "ViT-Tiny": ["heads", "encoder"],
}
SIZES = {"grid": 24, "objects": 64, "sensitivity": 24, "randomisation": 16, "removal": 16}
Key = tuple[str, str, str]  # method, layer, variant
Values = dict[str, dict[str, list[float]]]  # measure, then method|layer|variant: a number for each picture


# --- Networks and pictures --------------------------------------------------------------------------------------------


class OfFeatures(nn.Module):
    """A network's features under a linear multi-label head for the classes of PASCAL VOC."""

    def __init__(self, name: str, net: Any) -> None:
        super().__init__()
        head = torch.load(DATA / "models" / FILES[name].replace("-imagenet", "-voc-head"), weights_only=True)
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
    """Returns pictures of every third class, `N x 3 x 224 x 224` in [0, 1], and their classes."""
    images, classes = [], []
    for line in (DATA / "imagenet_sample" / "labels.tsv").read_text().splitlines()[::3]:
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


# --- Maps -------------------------------------------------------------------------------------------------------------


def methods(model: nn.Module, layers: list[str], **variants: dict[str, Any] | None) -> dict[Key, Any]:
    """Returns every method at every layer in every variant."""
    found: dict[Key, Any] = {}
    for method, cls in METHODS.items():
        for layer in layers:
            for variant, arguments in variants.items():
                plain = cls(model, layer)
                found[method, layer, variant] = plain if arguments is None else cea.ClassCompetition(plain, **arguments)
    return found


def maps_per_target(every: dict[Key, Any], x: Tensor, targets: list[Any]) -> Iterator[tuple[int, Key, Tensor]]:
    """Yields each target's maps at the picture's size; as a control, the plain map where it is strongest, at as many
    positions as the competing one (normalised) is not 0."""
    named = {"|".join(key): method for key, method in every.items()}
    for t, of in enumerate(cea.attribute_together_per_target(named, x, targets)):
        maps = {key: of["|".join(key)] for key in every}
        for (method, layer, variant), m in list(maps.items()):
            if variant == "normalized" and (method, layer, "plain") in maps:
                maps[method, layer, "control"] = strongest(maps[method, layer, "plain"], m.flatten(1).ne(0).sum(1))
        for key, m in maps.items():
            yield t, key, F.interpolate(m, tuple(x.shape[2:]), mode="bilinear", align_corners=False)


def strongest(m: Tensor, counts: Tensor) -> Tensor:
    """Returns each map at so many of its positions, those of the largest magnitude; 0 elsewhere."""
    flat = m.flatten(1)
    ranks = flat.abs().argsort(1, descending=True).argsort(1)
    return (flat * (ranks < counts[:, None])).reshape(m.shape)


# --- Questions --------------------------------------------------------------------------------------------------------


def grid(name: str) -> Values:
    """Grid pointing: the share of positive attribution in the right cell, averaged over a picture's four cells."""
    x, classes = grids(name, SIZES["grid"])
    model, found = network(name), defaultdict(list)
    for one, own in zip(x, classes):
        given = {"classes": own.tolist(), "normalize": True}
        every = methods(model, LAYERS[name], **VARIANTS, given=given)
        shares = defaultdict(list)
        for cell, key, m in maps_per_target(every, one[None], own.tolist()):
            shares["|".join(key)].append(share(m, cell))
        for key, values in shares.items():
            found[key].append(sum(values) / 4)  # NaN where a cell's map has nothing positive
    return {"grid": dict(found)}


def share(m: Tensor, cell: int) -> float:
    """Returns the share of positive attribution in one of four cells; NaN where there is none."""
    positive, side = m[0, 0].clamp(min=0), m.shape[-1] // 2
    rows, columns = side * (cell // 2), side * (cell % 2)
    return divided(positive[rows : rows + side, columns : columns + side].sum(), positive.sum())


def divided(a: Tensor, b: Tensor) -> float:
    return float(a / b) if float(b) > 0 else math.nan


def of_objects(name: str) -> Values:
    """The share of positive attribution on the object, and whether the maximum is on it; averaged over a picture's
    classes. Of pictures with several classes by themselves, too."""
    model = network(name) if name == "scene ResNet" else OfFeatures(name, network(name)).eval()
    inner = "" if name == "scene ResNet" else "net."
    every = methods(model, [inner + layer for layer in LAYERS[name]], **VARIANTS)
    found: Values = defaultdict(lambda: defaultdict(list))
    for pictured in objects(name, SIZES["objects"]):
        masses, hits = defaultdict(list), defaultdict(list)
        for t, (method, layer, variant), m in maps_per_target(every, pictured.x, pictured.classes):
            mask, positive = pictured.masks[t], m[0, 0].clamp(min=0)
            key = "|".join((method, layer.removeprefix(inner), variant))
            masses[key].append(divided(positive[mask].sum(), positive.sum()))
            hit = bool(pointing_game(m, mask[None], pictured.tolerance)) if bool(m.any()) else math.nan
            hits[key].append(float(hit))
        for mask in pictured.masks:
            masses["null"].append(float(mask.float().mean()))
            hits["null"].append(float(pointing_game(centre_map(mask.shape), mask[None], pictured.tolerance)))
        several = ("",) if len(pictured.classes) == 1 else ("", " (several classes)")
        for measure, values in (("mass", masses), ("pointing", hits)):
            for suffix in several:
                for key, v in values.items():
                    found[measure + suffix][key].append(sum(v) / len(v))
    return {measure: dict(values) for measure, values in found.items()}


def sensitivity(name: str) -> Values:
    """Spearman correlation of the maps for the highest and the lowest scoring class."""
    model, found = network(name), defaultdict(list)
    every = methods(model, LAYERS[name], **VARIANTS)
    sizes = {}
    for x in ordinary(name, SIZES["sensitivity"]).split(4):
        with torch.no_grad():
            z = model(x)
        first: dict[Key, Tensor] = {}
        for t, key, m in maps_per_target(every, x, [z.argmax(1), z.argmin(1)]):
            if t:
                found["|".join(key)] += spearman(first[key], m).tolist()
            else:
                first[key] = m
        sizes[name] = tuple(x.shape[2:])
    return {"sensitivity": dict(found), "null": nulls(every, ordinary(name, 1), sizes[name])}


def nulls(every: dict[Key, Any], x: Tensor, size: tuple[int, ...]) -> dict[str, list[float]]:
    """Returns the mean and the spread of the correlation of unrelated maps, for each layer."""
    found = {}
    for (method, layer, variant), explain in every.items():
        if variant == "plain" and method == "NormGrad":
            null = null_baseline(spearman, explain.attribute(x, target=0).shape[2:], size)
            found[layer] = [null.mean, null.std]
    return found


def fresh(layer: nn.Module) -> None:
    """Initialises a layer as it is before training."""
    if callable(reset := getattr(layer, "reset_parameters", None)):
        reset()
    else:
        for p in layer.parameters(recurse=False):
            nn.init.normal_(p, std=0.02)


def randomisation(name: str) -> Values:
    """Spearman correlation of the maps before and after randomisation, of the head and of nearly everything."""
    model, x = network(name), ordinary(name, SIZES["randomisation"])
    every = methods(model, LAYERS[name], **VARIANTS)
    with torch.no_grad():
        targets = model(x).argmax(1)

    def explained() -> dict[Key, Tensor]:
        parts = defaultdict(list)
        for some, own in zip(x.split(4), targets.split(4)):
            for _, key, m in maps_per_target(every, some, [own]):
                parts[key].append(m)
        return {key: torch.cat(maps) for key, maps in parts.items()}

    before = explained()
    stages = randomization_stages(model, STAGES[name], (x[:1],), ())
    found: Values = {"randomisation (head)": {}, "randomisation (all)": {}}
    with closing(randomized(model, stages, "cascading", fresh, 1, 0)) as states:
        for _, i in states:
            if i in (0, len(stages) - 1):
                measure = "randomisation (all)" if i else "randomisation (head)"
                for key, m in explained().items():
                    found[measure]["|".join(key)] = spearman(before[key], m).tolist()
    return found


def removal(name: str) -> Values:
    """Removal contrast, at the layer in the middle: how much longer the decision lasts when what the map holds for
    least goes first, than when what it holds for most does; own map against other pictures' maps."""
    model, x = network(name), ordinary(name, SIZES["removal"])
    chosen = ("NormGrad", "linear approximation")
    every = {k: m for k, m in methods(model, LAYERS[name][1:2], **VARIANTS).items() if k[0] in chosen}
    with torch.no_grad():
        targets = model(x).argmax(1)
    parts = defaultdict(list)
    for some, own in zip(x.split(4), targets.split(4)):
        for _, key, m in maps_per_target(every, some, [own]):
            parts[key].append(m)
    step = x.shape[2] * x.shape[3] // 50
    values = {"|".join(k): removal_contrast(model, x, torch.cat(m), step=step).delta.tolist() for k, m in parts.items()}
    return {"removal": values}


QUESTIONS: dict[str, Callable[[str], Values]] = {
    "grid": grid,
    "objects": of_objects,
    "randomisation": randomisation,
    "sensitivity": sensitivity,
    "removal": removal,
}


def asked(name: str, question: str) -> bool:
    """Tells whether a network takes part: there is no multi-label head for one, and removal takes long."""
    if question == "objects":
        return name != "EfficientNet-Lite0"
    return question != "removal" or name in ("scene ResNet", "EfficientNet-Lite0")


def main(folder: Path, only: str | None) -> None:
    """Answers what the folder does not hold yet."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [(q, name) for name in LAYERS for q in QUESTIONS if q != "removal"]
    for question, name in [*parts, *(("removal", name) for name in LAYERS)]:  # the longest last
        file = folder / f"{question}-{name.replace(' ', '-')}.json"
        if not asked(name, question) or file.exists() or (only or question) != question:
            continue
        began = time.process_time()
        values = QUESTIONS[question](name)
        file.with_suffix(".part").write_text(json.dumps(values))
        file.with_suffix(".part").rename(file)
        print(f"{file.name}: {time.process_time() - began:.0f} s", flush=True)
        network.cache_clear()  # a head may have been taken off


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=tuple(QUESTIONS))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    main(arguments.folder, arguments.only)
