"""Meta against plain maps over the training of a scene network (R20's Figures 10 and 11)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor, nn

from captum_extract_aggregate._common.tensors import upsample
from captum_extract_aggregate.attr import MetaSaliency, NormGrad, SelectiveNormGrad
from captum_extract_aggregate.data.scene_models import build_scene_model
from captum_extract_aggregate.data.train_scenes import load_scenes, train
from captum_extract_aggregate.metrics import spearman
from captum_extract_aggregate.reproduction.charts import curves
from captum_extract_aggregate.reproduction.findings import Finding, Outcome, markdown, mean_sd, smaller, tested
from captum_extract_aggregate.reproduction.r20_sensitivity import STEP
from captum_extract_aggregate.reproduction.setting import Setting

_SCENES, _EPOCHS = 3000, 8
_METHODS = {"NormGrad": NormGrad, "selective": SelectiveNormGrad}
_SETS = ("train", "validation")
_LOWER = "meta and plain maps correlate less on validation images than on training images, at the end of training"
_SETTLES = "meta-saliency's maps settle: those of the last epoch but one are more like the end's than the first epoch's"
_NO_DATA = "training takes the network's own training data"


@dataclass
class _Seen:
    """Holds what was seen after every epoch: the share of classes right by set, the correlations of meta and plain
    maps by method and set, and the meta maps of selective NormGrad on validation images."""

    right: list[list[float]] = field(default_factory=list)
    correlations: dict[tuple[str, str], list[list[float]]] = field(default_factory=dict)
    maps: list[Tensor] = field(default_factory=list)


def fig10(setting: Setting) -> Outcome:
    """Correlation of meta and plain maps over training, on images it is trained on and on validation images."""
    if not setting.model.name.startswith("scene-"):
        return Outcome(findings=[Finding(_LOWER, None, effect=_NO_DATA)])
    seen = _over_training(setting)
    epochs = [str(i) for i in range(len(seen.right))]
    header = ["epoch", *(f"{name}: classes right" for name in _SETS)]
    header += [f"{method}, {name}" for method in _METHODS for name in _SETS]
    rows = []
    for i, epoch in enumerate(epochs):
        cells = [mean_sd(seen.correlations[method, name][i]) for method in _METHODS for name in _SETS]
        rows.append([epoch, *(f"{right:.3f}" for right in seen.right[i]), *cells])
    means = {
        f"{method}, {name}": [float(np.nanmean(v)) for v in seen.correlations[method, name]]
        for method in _METHODS
        for name in _SETS
    }
    picture = setting.folder / f"r20-fig10-{setting.name}.png"
    title = f"{setting.name}: Spearman of meta and plain maps over the epochs ({setting.layers[2]})"
    curves(picture, epochs, means, {}, title, {})
    findings = []
    for method in _METHODS:
        own, other = (np.asarray(seen.correlations[method, name][-1]) for name in _SETS)
        findings.append(_lower(f"{method}: {_LOWER}", other[~np.isnan(other)], own[~np.isnan(own)]))
    return Outcome([markdown(header, rows)], findings, [picture])


def _lower(statement: str, first: np.ndarray, second: np.ndarray) -> Finding:  # type: ignore[type-arg]
    """Is the first sample lower than the second, of other images? Mann-Whitney's test."""
    if not len(first) or not len(second):
        return Finding(statement, None, effect="undefined for every image")
    found = mannwhitneyu(first, second)
    effect = 2 * float(found.statistic) / (len(first) * len(second)) - 1
    told = f"{first.mean():.3f} against {second.mean():.3f}, rank-biserial {effect:+.2f}"
    return tested(statement, effect < 0, len(first) + len(second), told, float(found.pvalue))


def fig11(setting: Setting) -> Outcome:
    """Correlation of selective NormGrad's meta maps at every epoch with those at the end of training."""
    if not setting.model.name.startswith("scene-"):
        return Outcome(findings=[Finding(_SETTLES, None, effect=_NO_DATA)])
    seen = _over_training(setting)
    found = [spearman(maps, seen.maps[-1]).tolist() for maps in seen.maps[:-1]]
    rows = [[str(i), mean_sd(values)] for i, values in enumerate(found)]
    picture = setting.folder / f"r20-fig11-{setting.name}.png"
    means = {"selective, meta": [float(np.nanmean(values)) for values in found]}
    title = f"{setting.name}: Spearman of meta maps with those at the end of training"
    curves(picture, [row[0] for row in rows], means, {}, title, {})
    before, first = ({(i, 0): v for i, v in enumerate(found[at])} for at in (-1, 0))
    finding = smaller(_SETTLES, before, first, magnitude=False, larger=True)
    return Outcome([markdown(["epoch", "Spearman with the end"], rows)], [finding], [picture])


def _over_training(setting: Setting) -> _Seen:
    """Trains a fresh scene network, and looks at it after every epoch (and before the first)."""
    return setting.once("training", lambda: _train(setting))


def _train(setting: Setting) -> _Seen:
    quick, name = setting.is_quick, setting.model.name.removeprefix("scene-")
    n, epochs = setting.sizes["stages"], 3 if quick else _EPOCHS
    images, classes = load_scenes(200 if quick else _SCENES, 1, "train", setting.show_progress)
    sets = (images[:n], classes[:n]), load_scenes(n, 2, "test", setting.show_progress)
    torch.manual_seed(0)
    model = build_scene_model(name)
    seen = _Seen()

    def look(epoch: int) -> None:
        contiguous = build_scene_model(name).eval()
        contiguous.load_state_dict(model.state_dict())
        seen.right.append([_accuracy(contiguous, x, y) for x, y in sets])
        for method, make in _METHODS.items():
            plain = make(contiguous, setting.layers[2])
            for of, (x, _) in zip(_SETS, sets):
                maps = _maps(contiguous, plain, x)
                seen.correlations.setdefault((method, of), []).append(spearman(*maps).tolist())
        seen.maps.append(maps[1])  # the last method's on the last set

    train(model, images, classes, epochs, 0, look, setting.show_progress)
    return seen


def _maps(model: nn.Module, method: NormGrad | SelectiveNormGrad, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the plain and the meta maps of each image's best class, at its size."""
    with torch.no_grad():
        best = model(x).argmax(1)
    step = MetaSaliency(method, lr=STEP, loss_func="binary_cross_entropy")
    size = (x.shape[2], x.shape[3])
    return upsample(method.attribute(x, target=best), size), upsample(step.attribute(x, target=best), size)


@torch.no_grad()
def _accuracy(model: nn.Module, x: Tensor, classes: Tensor) -> float:
    """Returns the share of classes whose presence is told rightly."""
    return float(((model(x) > 0) == (classes > 0.5)).double().mean())
