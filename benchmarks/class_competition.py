"""Does class competition help, or does it only look so? The numbers; class_competition_page.py makes the page of them.

    python benchmarks/class_competition.py FOLDER              # every part that FOLDER does not hold yet
    python benchmarks/class_competition_page.py FOLDER         # docs/class_competition_study.md and its picture

Networks: the embedded scene ResNet, and those of the folder named by CEA_DATA (default ../shared/data). A part is one
network and one question; it is written when it is done, so that a run can be stopped and taken up again. About half an
hour of one core.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from class_competition_pictures import OfFeatures, grids, network, objects, ordinary
from torch import Tensor, nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.metrics import pointing_game, removal_contrast
from captum_extract_aggregate.metrics.pointing_game import centre_map
from captum_extract_aggregate.metrics.randomization import randomization_stages, randomization_states, randomized
from captum_extract_aggregate.metrics.similarity import null_baseline, spearman

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
LAYERS = {  # one in the middle, and one near the end that is not the last before global pooling
    "scene ResNet": ["layer2", "layer3"],
    "EfficientNet-Lite0": ["blocks.4", "blocks.6"],
    "SqueezeNet": ["features.7", "features.10"],
    "ViT-Tiny": ["encoder.layers.encoder_layer_7", "encoder.layers.encoder_layer_10"],
    "MobileNetV2": ["features.10", "features.16"],
}
STAGES = {  # what is randomised: the head, and then nearly everything
    "scene ResNet": ["fc", "layer4", "layer3", "layer2", "layer1"],
    "SqueezeNet": ["classifier", "features"],
    "MobileNetV2": ["classifier", "features"],
    "EfficientNet-Lite0": ["classifier", "blocks"],
    "ViT-Tiny": ["heads", "encoder"],
}
SIZES = {"grid": 12, "objects": 128, "sensitivity": 16, "randomisation": 12, "removal": 12}
SCENES = 2  # times as many of the small pictures
Key = tuple[str, str, str]  # method, layer, variant
Values = dict[str, dict[str, list[float]]]  # measure, then method|layer|variant: a number for each picture


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
    x, classes = grids(name, size(name, "grid"))
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
    for pictured in objects(name, size(name, "objects")):
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
    for x in ordinary(name, size(name, "sensitivity")).split(4):
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
    model, x = network(name), ordinary(name, size(name, "randomisation"))
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
    first, *_, last = randomization_states("cascading", 1, len(stages))
    with closing(randomized(model, stages, [first, last], fresh, 0)) as states:
        for state in states:
            measure = "randomisation (all)" if state.stage else "randomisation (head)"
            for key, m in explained().items():
                found[measure]["|".join(key)] = spearman(before[key], m).tolist()
    return found


def removal(name: str) -> Values:
    """Removal contrast, at the layer in the middle: how much longer the decision lasts when what the map holds for
    least goes first, than when what it holds for most does; own map against other pictures' maps."""
    model, x = network(name), ordinary(name, size(name, "removal"))
    chosen = ("NormGrad", "linear approximation")
    every = {k: m for k, m in methods(model, LAYERS[name][:1], **VARIANTS).items() if k[0] in chosen}
    with torch.no_grad():
        targets = model(x).argmax(1)
    parts = defaultdict(list)
    for some, own in zip(x.split(4), targets.split(4)):
        for _, key, m in maps_per_target(every, some, [own]):
            parts[key].append(m)
    step = x.shape[2] * x.shape[3] // 25
    values = {"|".join(k): removal_contrast(model, x, torch.cat(m), step=step).delta.tolist() for k, m in parts.items()}
    return {"removal": values}


QUESTIONS: dict[str, Callable[[str], Values]] = {
    "grid": grid,
    "objects": of_objects,
    "randomisation": randomisation,
    "sensitivity": sensitivity,
    "removal": removal,
}


def size(name: str, question: str) -> int:
    """Returns how many pictures a question is asked of."""
    return SIZES[question] * (SCENES if name == "scene ResNet" else 1)


def asked(name: str, question: str) -> bool:
    """Tells whether a network takes part: there is no multi-label head for one, and removal takes long."""
    if question == "objects":
        return name != "EfficientNet-Lite0"
    return question != "removal" or name in ("scene ResNet", "EfficientNet-Lite0")


def main(folder: Path, networks: list[str]) -> None:
    """Answers what the folder does not hold yet."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [(q, name) for name in networks for q in QUESTIONS if q != "removal"]
    for question, name in [*parts, *(("removal", name) for name in networks)]:  # the longest last
        file = folder / f"{question}-{name.replace(' ', '-')}.json"
        if not asked(name, question) or file.exists():
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
    parser.add_argument("--networks", nargs="*", default=list(LAYERS), choices=list(LAYERS))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    main(arguments.folder, arguments.networks)
