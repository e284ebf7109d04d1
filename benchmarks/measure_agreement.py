"""Which measures of maps agree, and which does an edge detector win? The numbers; measure_agreement_page.py makes the
page of them.

    python benchmarks/measure_agreement.py FOLDER              # every part that FOLDER does not hold yet
    python benchmarks/measure_agreement.py FOLDER --device cuda --jobs 8
    python benchmarks/measure_agreement.py FOLDER --images 8   # of so many pictures
    python benchmarks/measure_agreement_page.py FOLDER         # docs/measure_agreement.md and its picture

Photographs of COCO with polygons, networks of the folder named by CEA_DATA (default ../shared/data) with the classes of
PASCAL VOC; every measure of the same pictures, whose class the network says. A part is one network and one kind of
measure; it is written when it is done. Minutes of a GPU, hours of one core.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch
import torch.nn.functional as F
from captum.attr import InputXGradient, IntegratedGradients
from class_competition_pictures import Decided, decided, deciding, network
from parts import answer_all, options
from torch import Tensor

import captum_extract_aggregate as cea
from captum_extract_aggregate import metrics
from captum_extract_aggregate.evaluation.choice.nulls import CentreMap, EdgeMap
from captum_extract_aggregate.metrics.randomization import randomization_stages, randomization_states, randomized
from captum_extract_aggregate.metrics.stability import Seen, largest_stability, noise_fields, stability_of

OF_LAYERS: dict[str, Any] = {
    "gradient": cea.LayerGradient,
    "GradCAM": cea.GradCAM,
    "GradCAM_Pos": cea.GradCAMPos,
    "LayerCAM": cea.LayerCAM,
    "linear approximation": cea.LinearApproximation,
    "NormGrad": cea.NormGrad,
    "selective NormGrad": cea.SelectiveNormGrad,
    "guided backprop": cea.GuidedBackprop,
    "LRP": lambda model, layers: cea.LRP(model, layers, gamma=0.25),  # gamma 0 is linear approximation
    "excitation backprop": cea.ExcitationBackprop,
}
OF_INPUT: dict[str, Any] = {
    "gradient": lambda model: cea.LayerGradient(model, None),
    "guided backprop": lambda model: cea.GuidedBackprop(model, None),
    "InputXGradient": InputXGradient,
    "IntegratedGradients": IntegratedGradients,
    "FullGrad": cea.FullGrad,
}
LAYERS = {  # early, in the middle, and late
    "EfficientNet-Lite0": ["blocks.2", "blocks.4", "blocks.6"],
    "SqueezeNet": ["net.features.4", "net.features.7", "net.features.10"],
    "ViT-Tiny": [f"net.encoder.layers.encoder_layer_{i}" for i in (3, 7, 10)],
}
STAGES = {
    "EfficientNet-Lite0": ["classifier", "blocks.5", "blocks.3", "blocks.1"],
    "SqueezeNet": ["head", "net.features.12", "net.features.9", "net.features.6"],
    "ViT-Tiny": ["head", *(f"net.encoder.layers.encoder_layer_{i}" for i in (9, 6, 3))],
}
REFUSED = {"ViT-Tiny": ("guided backprop", "excitation backprop")}  # rules of ReLU networks
NULLS = ("random map", "centre", "edges")
IMAGES = 40
BATCH = {"cpu": 4, "cuda": 20}
AT_ONCE = {"cpu": 32, "cuda": 256}
Maps = dict[str, Tensor]  # method|layer
Values = dict[str, dict[str, list[float]]]  # measure, then method|layer: a number for each picture


# --- Maps -------------------------------------------------------------------------------------------------------------


class Explainers:
    """Holds every method at every layer of a network, and the maps that know nothing."""

    def __init__(self, name: str, device: str) -> None:
        self.device, self.model = device, deciding(name, device)
        kinds = {k: cls for k, cls in OF_LAYERS.items() if k not in REFUSED.get(name, ())}
        if name == "ViT-Tiny":
            kinds["linear approximation, balanced"] = balanced
        self.layers = LAYERS[name]
        self.of_layers = {kind: cls(self.model, self.layers) for kind, cls in kinds.items()}
        self.of_input = {k: make(self.model) for k, make in OF_INPUT.items() if k not in REFUSED.get(name, ())}
        self.centre, self.edges = CentreMap(self.model), EdgeMap(self.model)
        self.drawing = torch.Generator().manual_seed(0)

    def __call__(self, x: Tensor, targets: Tensor) -> Maps:
        """Returns the maps `N x 1 x 224 x 224`."""
        parts = defaultdict(list)
        for some, own in zip(x.split(BATCH[self.device]), targets.split(BATCH[self.device])):
            for key, m in self._of_batch(some, own).items():
                parts[key].append(m)
        return {key: torch.cat(maps) for key, maps in parts.items()}

    def _of_batch(self, x: Tensor, targets: Tensor) -> Maps:
        found = {}
        for method, maps in cea.attribute_together(self.of_layers, x, targets).items():
            found |= {f"{method}|{layer.removeprefix('net.')}": m for layer, m in zip(self.layers, maps)}
        for method, explain in self.of_input.items():
            given = {"internal_batch_size": 64, "n_steps": 16} if method == "IntegratedGradients" else {}
            found[f"{method}|input"] = explain.attribute(x, target=targets, **given)
        found |= {
            "random map|": self._random(x),
            "centre|": self.centre.attribute(x),
            "edges|": self.edges.attribute(x),
        }
        return {key: at_size(m, x) for key, m in found.items()}

    def _random(self, x: Tensor) -> Tensor:
        return torch.rand(len(x), 1, 14, 14, generator=self.drawing).to(x)


def balanced(model: Any, layers: list[str]) -> cea.LibraGrad:
    return cea.LibraGrad(cea.LinearApproximation(model, layers))


def at_size(m: Tensor, x: Tensor) -> Tensor:
    """Returns maps summed over channels, at the size of the pictures."""
    summed = m.detach().sum(1, keepdim=True).float()
    return F.interpolate(summed, tuple(x.shape[2:]), mode="bilinear", align_corners=False)


# --- Measures ---------------------------------------------------------------------------------------------------------


def of_each(maps: Maps, measure: Callable[[Tensor], Tensor | dict[str, Tensor]]) -> Values:
    """Returns a measure, or several, of each method's maps; NaN where a map is not finite."""
    found: Values = defaultdict(dict)
    for key, m in maps.items():
        finite = torch.isfinite(m.flatten(1)).all(1).cpu()
        measured = measure(m.nan_to_num(0, 0, 0))
        for name, values in measured.items() if isinstance(measured, dict) else [("", measured)]:
            found[name][key] = values.double().cpu().masked_fill(~finite, torch.nan).tolist()
    return dict(found)


def on_maps(explain: Explainers, of: Decided) -> Values:
    """What needs the maps alone, and masks."""
    maps = explain(of.x, of.classes)

    def measures(m: Tensor) -> dict[str, Tensor]:
        hits = [metrics.pointing_game(a, mask[None], 15).reshape(()) for a, mask in zip(m, of.masks)]
        return {
            "mass accuracy": metrics.relevance_mass_accuracy(m, of.masks),
            "rank accuracy": metrics.relevance_rank_accuracy(m, of.masks),
            "localisation AUC": metrics.localisation_auc(m, of.masks),
            "pointing game": torch.stack(hits),
            "sparseness": metrics.sparseness(m),
            "complexity": metrics.complexity(m),
        }

    return of_each(maps, measures)


def on_grids(explain: Explainers, of: Decided) -> Values:
    """Every picture in a corner of a grid, beside three of other classes; its class is explained."""
    drawing = torch.Generator().manual_seed(0)
    small = F.interpolate(of.x, (112, 112), mode="bilinear", antialias=True)
    made, corners = [], []
    for i, own in enumerate(of.classes.tolist()):
        others, classes = [], {own}
        for j in torch.randperm(len(of.x), generator=drawing).tolist():
            if len(others) < 3 and int(of.classes[j]) not in classes:
                others.append(small[j])
                classes.add(int(of.classes[j]))
        corner = int(torch.randint(4, (1,), generator=drawing))
        others = [*others, *others, *others][:3]  # again, where there are too few
        a, b, c, d = [*others[:corner], small[i], *others[corner:]]
        made.append(torch.cat([torch.cat([a, b], 2), torch.cat([c, d], 2)], 1))
        corners.append(corner)
    maps = explain(torch.stack(made), of.classes)
    return of_each(maps, lambda m: {"grid pointing": metrics.grid_pointing_game(m, corners, n=2)})


def on_classes(explain: Explainers, of: Decided) -> Values:
    """The correlation with the map of the class that scores lowest."""
    first = explain(of.x, of.classes)
    with torch.no_grad():
        scores = torch.cat([explain.model(x) for x in of.x.split(BATCH[explain.device])])
    second = explain(of.x, scores.argmin(1))
    return {"class sensitivity": {key: metrics.spearman(first[key], second[key]).abs().tolist() for key in first}}


def on_randomised(explain: Explainers, of: Decided) -> Values:
    """The correlation with the maps before, averaged over stages of randomisation; how the entropy rises with the
    last."""
    first, found = explain(of.x, of.classes), {}
    alike: dict[str, list[Tensor]] = defaultdict(list)
    name = next(n for n, layers in LAYERS.items() if layers == explain.layers)
    stages = randomization_stages(explain.model, STAGES[name], (of.x[:1],), ())
    drawn = randomization_states("cascading", 1, len(stages))
    with closing(randomized(explain.model, stages, drawn, "matched", 0)) as states:
        for state in states:
            maps = explain(of.x, of.classes)
            for key, m in maps.items():
                alike[key].append(metrics.spearman(first[key], m).abs())
                if state.stage == len(stages) - 1:
                    found[key] = metrics.entropy_rise(first[key], m).tolist()
    return {"MPRT": {key: torch.stack(values).nanmean(0).tolist() for key, values in alike.items()}, "eMPRT": found}


def on_neighbours(explain: Explainers, of: Decided) -> Values:
    """How much maps change with uniform noise; maps are divided by their largest magnitude."""

    def scaled(maps: Maps) -> Maps:
        return {key: m / m.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-30) for key, m in maps.items()}

    def scores_of(x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([explain.model(some) for some in x.split(BATCH[explain.device])])

    first, own = scaled(explain(of.x, of.classes)), Seen(of.x, scores_of(of.x), None)
    changes = defaultdict(list)
    for noise in noise_fields(of.x, 5, 0.05, 0, uniform=True):
        near = Seen(of.x + noise, scores_of(of.x + noise), None)
        for key, m in scaled(explain(near.inputs, of.classes)).items():
            changes[key].append(stability_of(own, near, first[key], m))
    found: Values = defaultdict(dict)
    for key, values in changes.items():
        largest = largest_stability(values)
        found["relative input stability"][key] = largest.relative_input.tolist()
        found["relative output stability"][key] = largest.relative_output.tolist()
        found["local Lipschitz estimate"][key] = largest.lipschitz.tolist()
    return dict(found)


def on_removal(explain: Explainers, of: Decided) -> Values:
    """What can go before the decision flips."""
    step, most = of.x.shape[2] * of.x.shape[3] // 25, AT_ONCE[explain.device]

    def measures(m: Tensor) -> dict[str, Tensor]:
        found = metrics.removal_contrast(explain.model, of.x, m, step=step, max_examples_per_batch=most)
        return {"pixel removal": found.own_minus.e - found.own_plus.e, "removal contrast": found.delta}

    return of_each(explain(of.x, of.classes), measures)


def on_curves(explain: Explainers, of: Decided) -> Values:
    """Areas under the class's probability."""
    given = {"targets": of.classes, "max_examples_per_batch": AT_ONCE[explain.device]}

    def measures(m: Tensor) -> dict[str, Tensor]:
        gain = metrics.symmetric_relevance_gain(explain.model, of.x, m, **given)
        insertion = metrics.perturbation_curve(explain.model, of.x, m, mode="insertion", imputer="blur", **given)
        return {"deletion": gain.most_first.areas, "SRG": gain.gain, "insertion": insertion.areas}

    return of_each(explain(of.x, of.classes), measures)


def on_road(explain: Explainers, of: Decided) -> Values:
    """The area with ROAD's imputation."""
    fractions = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)

    def measure(m: Tensor) -> dict[str, Tensor]:
        given = {"fractions": fractions, "imputer": "road", "max_examples_per_batch": AT_ONCE[explain.device]}
        return {"ROAD": metrics.perturbation_curve(explain.model, of.x, m, of.classes, **given).areas}

    return of_each(explain(of.x, of.classes), measure)


QUESTIONS: dict[str, Callable[[Explainers, Decided], Values]] = {
    "maps": on_maps,
    "grids": on_grids,
    "classes": on_classes,
    "removal": on_removal,
    "curves": on_curves,
    "road": on_road,
    "randomised": on_randomised,
    "neighbours": on_neighbours,
}


def ask(question: str, name: str, images: int, device: str) -> Values:
    """Returns one part's numbers."""
    of = decided(name, images)
    moved = Decided(of.x.to(device), of.classes.to(device), of.masks.to(device), of.files)
    try:
        return QUESTIONS[question](Explainers(name, device), moved)
    finally:
        network.cache_clear()


if __name__ == "__main__":
    parser = options(__doc__, LAYERS, QUESTIONS, BATCH)
    parser.add_argument("--images", type=int, default=IMAGES)
    arguments = parser.parse_args()
    answer_all(arguments, ask, arguments.images)
