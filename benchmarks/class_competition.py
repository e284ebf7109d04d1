"""Does class competition help, or does it only look so? The numbers; class_competition_page.py makes the page of them.

    python benchmarks/class_competition.py FOLDER              # every part that FOLDER does not hold yet
    python benchmarks/class_competition.py FOLDER --device cuda --jobs 8
    python benchmarks/class_competition.py FOLDER --share 0.1  # of a tenth of the pictures
    python benchmarks/class_competition_page.py FOLDER         # docs/class_competition_study.md and its picture

Networks: the embedded scene ResNet, and those of the folder named by CEA_DATA (default ../shared/data). A part is one
network and one question; it is written when it is done, so that a run can be stopped and taken up again. Minutes of a
GPU, hours of one core.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import torch
import torch.nn.functional as F
from class_competition_pictures import grids, network, objects, of_objects, ordinary
from parts import answer_all, options
from torch import Tensor, nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.metrics import (
    grid_pointing_game,
    pointing_game,
    relevance_mass_accuracy,
    removal_contrast,
)
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
SIZES = {"grid": 60, "objects": 128, "sensitivity": 128, "randomisation": 48, "removal": 96}
SCENES = 2  # times as many of the small pictures
BATCH = {"cpu": 4, "cuda": 32}
REMOVED_AT_ONCE = {"cpu": 64, "cuda": 256}
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


def grid(name: str, n: int, device: str) -> Values:
    """Grid pointing: the share of positive attribution in the right cell, averaged over a picture's four grids."""
    of = grids(name, n)
    model, size = network(name, device), BATCH[device]
    shares: dict[str, list[Tensor]] = defaultdict(list)
    for x, classes in zip(of.x.split(size), of.classes.split(size)):
        given = {"classes": classes.tolist(), "normalize": True}
        every = methods(model, LAYERS[name], **VARIANTS, given=given)
        for cell, key, m in maps_per_target(every, x.to(device), list(classes.T.to(device))):
            shares["|".join(key)].append(grid_pointing_game(m, [cell] * len(m), n=2).cpu())
    found = {}
    batches = len(of.x.split(size))
    for key, parts in shares.items():
        by_corner = [torch.cat(parts[corner::4]) for corner in range(4)]  # batch by batch, corner by corner
        assert len(parts) == 4 * batches
        values = torch.zeros(len(of.x), dtype=torch.float64)
        for corner, found_there in enumerate(by_corner):  # NaN where a cell's map has nothing positive
            values[of.members[:, corner]] += found_there / 4
        found[key] = values.tolist()
    return {"grid": found}


def on_objects(name: str, n: int, device: str) -> Values:
    """The share of positive attribution on the object, and whether the maximum is on it; averaged over a picture's
    classes. Of pictures with several classes by themselves, too."""
    model = of_objects(name, device)
    inner = "" if name == "scene ResNet" else "net."
    every = methods(model, [inner + layer for layer in LAYERS[name]], **VARIANTS)
    found: Values = defaultdict(lambda: defaultdict(list))
    for pictured in objects(name, n):
        masses, hits = defaultdict(list), defaultdict(list)
        for t, (method, layer, variant), m in maps_per_target(every, pictured.x.to(device), pictured.classes):
            mask, m = pictured.masks[t : t + 1], m.cpu()
            key = "|".join((method, layer.removeprefix(inner), variant))
            masses[key].append(float(relevance_mass_accuracy(m, mask)))
            hit = bool(pointing_game(m, mask, pictured.tolerance)) if bool(m.any()) else torch.nan
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


def sensitivity(name: str, n: int, device: str) -> Values:
    """Spearman correlation of the maps for the highest and the lowest scoring class."""
    model, found = network(name, device), defaultdict(list)
    every, pictures = methods(model, LAYERS[name], **VARIANTS), ordinary(name, n).to(device)
    for x in pictures.split(BATCH[device]):
        with torch.no_grad():
            z = model(x)
        first: dict[Key, Tensor] = {}
        for t, key, m in maps_per_target(every, x, [z.argmax(1), z.argmin(1)]):
            if t:
                found["|".join(key)] += spearman(first[key], m).tolist()
            else:
                first[key] = m
    return {"sensitivity": dict(found), "null": nulls(every, pictures[:1], tuple(pictures.shape[2:]))}


def nulls(every: dict[Key, Any], x: Tensor, size: tuple[int, ...]) -> dict[str, list[float]]:
    """Returns the mean and the spread of the correlation of unrelated maps, for each layer."""
    found = {}
    for (method, layer, variant), explain in every.items():
        if variant == "plain" and method == "NormGrad":
            null = null_baseline(spearman, explain.attribute(x, target=0).shape[2:], size)
            found[layer] = [null.mean, null.std]
    return found


def randomisation(name: str, n: int, device: str) -> Values:
    """Spearman correlation of the maps before and after randomisation, of the head and of nearly everything."""
    model, x = network(name, device), ordinary(name, n).to(device)
    every = methods(model, LAYERS[name], **VARIANTS)
    with torch.no_grad():
        targets = torch.cat([model(some).argmax(1) for some in x.split(BATCH[device])])
    before = explained(every, x, targets, BATCH[device])
    stages = randomization_stages(model, STAGES[name], (x[:1],), ())
    found: Values = {"randomisation (head)": {}, "randomisation (all)": {}}
    first, *_, last = randomization_states("cascading", 1, len(stages))
    with closing(randomized(model, stages, [first, last], "matched", 0)) as states:
        for state in states:
            measure = "randomisation (all)" if state.stage else "randomisation (head)"
            for key, m in explained(every, x, targets, BATCH[device]).items():
                found[measure]["|".join(key)] = spearman(before[key], m).tolist()
    return found


def explained(every: dict[Key, Any], x: Tensor, targets: Tensor, batch: int) -> dict[Key, Tensor]:
    """Returns the maps of one class of each picture."""
    parts = defaultdict(list)
    for some, own in zip(x.split(batch), targets.split(batch)):
        for _, key, m in maps_per_target(every, some, [own]):
            parts[key].append(m)
    return {key: torch.cat(maps) for key, maps in parts.items()}


def removal(name: str, n: int, device: str) -> Values:
    """Removal contrast: how much longer the decision lasts when what the map holds for least goes first, than when what
    it holds for most does; own map against other pictures' maps."""
    model, x = network(name, device), ordinary(name, n).to(device)
    chosen = ("NormGrad", "linear approximation")
    every = {k: m for k, m in methods(model, LAYERS[name], **VARIANTS).items() if k[0] in chosen}
    with torch.no_grad():
        targets = torch.cat([model(some).argmax(1) for some in x.split(BATCH[device])])
    step, most = x.shape[2] * x.shape[3] // 25, REMOVED_AT_ONCE[device]
    values = {}
    for key, maps in explained(every, x, targets, BATCH[device]).items():
        contrast = removal_contrast(model, x, maps, step=step, max_examples_per_batch=most)
        values["|".join(key)] = contrast.delta.tolist()
    return {"removal": values}


QUESTIONS: dict[str, Callable[[str, int, str], Values]] = {
    "grid": grid,
    "randomisation": randomisation,
    "sensitivity": sensitivity,
    "objects": on_objects,
    "removal": removal,
}


def size(name: str, question: str, share: float) -> int:
    """Returns how many pictures a question is asked of, a multiple of four."""
    return max(4, 4 * round(SIZES[question] * share * (SCENES if name == "scene ResNet" else 1) / 4))


def ask(question: str, name: str, share: float, device: str) -> Values:
    """Returns one part's numbers."""
    try:
        return QUESTIONS[question](name, size(name, question, share), device)
    finally:
        network.cache_clear()  # a head may have been taken off


if __name__ == "__main__":
    parser = options(__doc__, LAYERS, QUESTIONS, BATCH)
    parser.add_argument("--share", type=float, default=1.0, help="of the pictures")
    arguments = parser.parse_args()
    answer_all(arguments, ask, arguments.share)
