"""Rebuffi, Fong, Ji, Vedaldi (CVPR 2020): the figures that show maps."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from torch import Tensor

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.combination import combine_maps, normalized_weights
from captum_extract_aggregate.data.captioner import load_scene_captioner
from captum_extract_aggregate.evaluation import CombinationPlan, MetaPlan, MethodPlan
from captum_extract_aggregate.metrics import sparseness
from captum_extract_aggregate.metrics.randomization import randomization_stages, randomization_states, randomized
from captum_extract_aggregate.reproduction.charts import Tile, picture_grid, tiles
from captum_extract_aggregate.reproduction.findings import Finding, Outcome, markdown, mean_sd, more_hits, smaller
from captum_extract_aggregate.reproduction.plans import R20
from captum_extract_aggregate.reproduction.r20_results import correlations, hits_of, methods_of, pointing_results
from captum_extract_aggregate.reproduction.r20_sensitivity import STEP, meta_results, with_and_without
from captum_extract_aggregate.reproduction.randomization import randomization_measures, randomization_outcome
from captum_extract_aggregate.reproduction.setting import Setting

_SHOWN = ("selective", "linear approx.")


def fig2(setting: Setting) -> Outcome:
    """Pictures: linear approximation and selective NormGrad at every layer, and the product by accuracy weights."""
    weights = tuple(round(w, 6) for w in setting.probe_weights.values())
    combined = (CombinationPlan("product", weights, "combined"),)
    methods = [MethodPlan(R20[name].method, name, combine=combined) for name in _SHOWN]
    return Outcome(pictures=[picture_grid(setting, methods, "r20-fig2")])


def fig4(setting: Setting) -> Outcome:
    """GradCAM at every layer: a picture, and where objects are known whether it points worse before the last layer."""
    picture = picture_grid(setting, [MethodPlan("gradcam", "GradCAM")], "r20-fig4")
    if not setting.has_objects:
        return Outcome(pictures=[picture])
    results = pointing_results(setting)
    last = hits_of(results, "GradCAM", setting.layers[-1])
    findings = [
        more_hits(f"GradCAM points worse at {layer} than at the last layer", last, hits_of(results, "GradCAM", layer))
        for layer in setting.layers[:-1]
    ]
    return Outcome(findings=findings, pictures=[picture])


def fig5(setting: Setting) -> Outcome:
    """Selective NormGrad and linear approximation, with and without meta-saliency, by class: a picture, and numbers."""
    layer = setting.layers[-2]
    plans = with_and_without(setting, _SHOWN, (layer,))
    x = setting.first.x[None]
    classes = _classes(setting, x)
    rows = {}
    for plan in plans:
        attribute = setting.method(plan)
        maps = [attribute(x, torch.tensor([c]))[0] for c in classes.values()]
        rows[plan.label] = [Tile(name, setting.picture(x[0]), map_) for name, map_ in zip(classes, maps)]
    path = setting.folder / f"r20-fig5-{setting.name}.png"
    tiles(path, rows, f"{setting.name}: {layer}, with and without a step of {STEP:g}")
    results = meta_results(setting)
    cells, findings = [], []
    for name in _SHOWN:
        if name not in methods_of(results):
            continue
        plain, meta = (correlations(results, of, layer) for of in (name, f"{name}, meta"))
        cells.append([name, *(mean_sd(list(v.values())) for v in (plain, meta))])
        statement = f"{name}: with meta-saliency the maps of the best and the worst class are less alike ({layer})"
        findings.append(smaller(statement, meta, plain))
    return Outcome([markdown(["Spearman, best against worst class", "plain", "meta"], cells)], findings, [path])


def _classes(setting: Setting, x: Tensor) -> dict[str, int]:
    """Returns the true class (if it is known and another one), the best and the worst of an input."""
    with torch.no_grad():
        scores = setting.network(x)[0]
    best, worst = int(scores.argmax()), int(scores.argmin())
    found = {f"best class ({best})": best, f"worst class ({worst})": worst}
    label = setting.first.label
    return found if label in (-1, best) else {f"true class ({label})": label} | found


def fig12(setting: Setting) -> Outcome:
    """Pictures: selective NormGrad after a step of ascent (left), of none (middle) and of descent (right)."""
    layer = (setting.layers[-2],)
    steps = {
        "negative": MetaPlan(STEP, True, setting.loss),
        "none": None,
        "positive": MetaPlan(STEP, False, setting.loss),
    }
    methods = {
        name: setting.method(MethodPlan("selective-normgrad", layers=layer, meta_saliency=step))
        for name, step in steps.items()
    }
    rows = {}
    for i, sample in enumerate(setting.samples(1 if setting.is_quick else 4)):
        x = sample.x[None]
        picture, target = setting.picture(sample.x), setting.best(x)
        rows[f"image {i + 1}"] = [Tile(name, picture, of(x, target)[0]) for name, of in methods.items()]
    path = setting.folder / f"r20-fig12-{setting.name}.png"
    tiles(path, rows, f"{setting.name}: selective NormGrad at {layer[0]}, meta-saliency by a step of {STEP:g}")
    return Outcome(pictures=[path])


def fig13(setting: Setting) -> Outcome:
    """Blocks initialised anew, with and without meta-saliency: pictures, and similarity to the original map."""
    plans = with_and_without(setting, _SHOWN, (setting.layers[-2],))
    results = setting.evaluate(plans, randomization_measures(setting, "abs_spearman", ("reset",)), "stages")
    pairs = [(f"{name}, meta", name) for name in _SHOWN]
    outcome = randomization_outcome(setting, results, "r20-fig13", pairs, "reset", less=True)
    outcome.pictures.append(_by_stage(setting, plans))
    return outcome


def _by_stage(setting: Setting, plans: list[MethodPlan]) -> Path:
    x = setting.first.x[None]
    target, picture = setting.best(x), setting.picture(x[0])
    methods = {plan.label: setting.method(plan) for plan in plans}
    rows = {name: [Tile("original", picture, of(x, target)[0])] for name, of in methods.items()}
    stages = randomization_stages(setting.network, setting.stages, (x,), ())
    chosen = {round(k * (len(stages) - 1) / 4) for k in range(5)}
    drawn = randomization_states("cascading", 1, len(stages))
    with contextlib.closing(randomized(setting.network, stages, drawn, "reset", 0)) as states:
        for state in states:
            if state.stage in chosen:
                for name, of in methods.items():
                    rows[name].append(Tile(f"to {stages[state.stage][0]}", picture, torch.nan_to_num(of(x, target)[0])))
    path = setting.folder / f"r20-fig13-maps-{setting.name}.png"
    tiles(path, rows, f"{setting.name}: maps at {setting.layers[-2]}, randomised from the output on")
    return path


def fig14(setting: Setting) -> Outcome:
    """Captions of scenes explained by selective NormGrad, at layers of the encoder and combined by linear weights."""
    sharper = "captions: layers combined by a product give a more concentrated map than the last layer"
    if setting.model.name != "scene-resnet":
        return Outcome(findings=[Finding(sharper, None, effect="the captioner is one of scenes, with a ResNet")])
    captioner, names = load_scene_captioner(), ("layer3", "layer4")
    layers = [captioner.encoder.get_submodule(name) for name in names]
    weights = normalized_weights("linear", [*layers], captioner)
    rows: dict[str, list[Tile]] = {}
    concentration: dict[str, list[float]] = {name: [] for name in (*names, "combined")}
    for i, sample in enumerate(setting.samples(setting.sizes["stages"])):
        x = sample.x[None]
        caption = captioner.caption(sample.x)
        method = cea.SelectiveNormGrad(lambda x, c=caption: captioner.log_probability(x, [c] * len(x)), layers)
        maps = method.attribute(x)
        size = (x.shape[2], x.shape[3])
        shown = dict(zip(names, maps)) | {"combined": combine_maps(maps, size, weights, "product", names)}
        for name, map_ in shown.items():
            at_size = torch.nn.functional.interpolate(map_, size, mode="bilinear", align_corners=False)
            concentration[name].append(float(sparseness(at_size)))
        if i < (1 if setting.is_quick else 3):
            rows[caption] = [Tile(name, setting.picture(sample.x), map_[0]) for name, map_ in shown.items()]
    path = setting.folder / f"r20-fig14-{setting.name}.png"
    tiles(path, rows, "selective NormGrad of a caption's log-probability")
    joint, last = ({(i, 0): v for i, v in enumerate(concentration[name])} for name in ("combined", names[-1]))
    table = markdown(["Gini index of the map", *concentration], [["", *(mean_sd(v) for v in concentration.values())]])
    return Outcome([table], [smaller(sharper, joint, last, magnitude=False, larger=True)], [path])


def fig15(setting: Setting) -> Outcome:
    """Pictures: gradient, linear approximation, NormGrad and selective NormGrad at every layer."""
    names = ("gradient", "linear approx.", "NormGrad", "selective")
    methods = [MethodPlan(R20[name].method, name, arguments=R20[name].arguments) for name in names]
    return Outcome(pictures=[picture_grid(setting, methods, "r20-fig15")])
