"""Grabska-Barwinska (2020): the figures that show maps of one picture, with their sums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captum_extract_aggregate._engine.default_layers import default_layers
from captum_extract_aggregate.attr import ActivityAttribution, BiasAttribution, LibraGrad
from captum_extract_aggregate.evaluation import MethodPlan
from captum_extract_aggregate.reproduction.bias_decay import LINEAR
from captum_extract_aggregate.reproduction.charts import Tile, tiles
from captum_extract_aggregate.reproduction.findings import Finding, Outcome, markdown, mean_at_least
from captum_extract_aggregate.reproduction.setting import Setting

_UPDATES = 100


def fig1(setting: Setting) -> Outcome:
    """A linear classifier of handwritten digits without biases: its gradients, and attributions of a 3 and a 6."""
    images, labels = _digits()
    torch.manual_seed(0)
    classifier = nn.Linear(images.shape[1], 10, bias=False).double()
    optimizer = torch.optim.Adam(classifier.parameters(), lr=0.05)
    for _ in range(_UPDATES):
        optimizer.zero_grad()
        nn.functional.cross_entropy(classifier(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    weights = classifier.weight.detach()
    right = float((classifier(images).argmax(1) == labels).double().mean())
    rows, worst = {"gradients": [_tile(str(c), torch.zeros(8, 8), w) for c, w in enumerate(weights)]}, 0.0
    positive = []
    for digit in (3, 6):
        x = images[labels == digit][0]
        attributions = weights * x
        scores = classifier(x).detach()
        worst = max(worst, float((attributions.sum(1) - scores).abs().max()))
        titles = [f"{c}: {f:.1f}" for c, f in enumerate(scores.tolist())]
        rows[f"a {digit}"] = [_tile(t, x.reshape(8, 8), a) for t, a in zip(titles, attributions)]
    for digit in range(10):
        own = (images[labels == digit] * weights[digit]).sum(1)
        positive += [float(v > 0) for v in own.tolist()]
    path = setting.folder / f"g20-fig1-{setting.name}.png"
    tiles(path, rows, "a linear classifier: gradients; gradient x input, with the scores that they add up to")
    findings = [
        Finding("gradient times input adds up to the score", worst < 1e-9, 20, f"largest gap {worst:.0e}"),
        mean_at_least("digits speak for their own class: the attributions' sum is positive for 95 %", positive, 0.95),
    ]
    table = markdown(["digits", "right"], [[str(len(images)), f"{100 * right:.1f} %"]])
    return Outcome([table], findings, [path])


def _digits() -> tuple[Tensor, Tensor]:
    """Returns scikit-learn's digits, 8 x 8 pixels in [0, 1], and their classes."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    return torch.from_numpy(np.asarray(data.data) / 16), torch.from_numpy(np.asarray(data.target)).long()


def _tile(title: str, picture: Tensor, map_: Tensor) -> Tile:
    return Tile(title, picture.reshape(1, 8, 8), map_.reshape(1, 8, 8))


def fig2(setting: Setting) -> Outcome:
    """The complete decomposition of one picture's score: activities and biases at every layer, with their sums.

    Where a network gates or normalises (a ViT), gradients alone do not decompose it: at its default layers, balanced.
    """
    x = setting.first.x[None]
    target, picture = setting.best(x), setting.picture(x[0])
    with torch.no_grad():
        score = float(setting.network(x)[0, target])
    gap: Any = ActivityAttribution(setting.network, None).compute_convergence_delta(x, target=target)
    is_linear = abs(float(gap)) < LINEAR * abs(score)
    layers, shown, biases = _cut_at(setting, is_linear)
    plain = ActivityAttribution(setting.network, layers)
    method: Any = plain if is_linear else LibraGrad(plain)
    activities = method.attribute(x, target=target)
    rows = {
        "activities": [
            Tile(f"{layer}: {float(a.sum()):.2f}", picture, a[0])
            for layer, a in zip(layers, activities)
            if layer in shown
        ]
    }
    if biases:
        terms = BiasAttribution(setting.network, biases).attribute(x, target=target)
        rows["biases"] = [Tile(f"{name}: {float(b.sum()):.2f}", picture, b[0]) for name, b in zip(biases, terms)]
    path = setting.folder / f"g20-fig2-{setting.name}.png"
    tiles(path, rows, f"{setting.name}: score {score:.2f}, with the sum over every map")
    gaps = [float(v) for v in method.compute_convergence_delta(x, target=target)]
    cells = []
    for layer, a, gap in zip(layers, activities, gaps):
        total = float(a.double().sum())
        cells.append([layer, f"{total:.3f}", f"{score + gap - total:.3f}", f"{score + gap:.3f}"])
    header = ["cut at", "activities", "all biases behind it", f"both (score {score:.3f})"]
    worst = max(abs(gap) for gap in gaps) / max(1e-12, abs(score))
    effect = f"largest relative gap {worst:.1e}"
    if not is_linear:
        others = [abs(float(gap) / score) for gap in plain.compute_convergence_delta(x, target=target)]
        effect += f"; of plain gradients {max(others):.2f}"
    of = "" if is_linear else ", with balanced gradients"
    statement = f"at every layer the activities and the biases behind it add up to the score{of}"
    finding = Finding(statement, worst < LINEAR, len(gaps), effect)
    return Outcome([markdown(header, cells)], [finding], [path])


def _cut_at(setting: Setting, is_linear: bool) -> tuple[list[str], set[str], list[str]]:
    """Returns where a network is cut, of which cuts maps are shown, and the layers of the biases' maps beside them."""
    if not is_linear:
        layers = list(default_layers(setting.network, setting.first.x[None]))
        return layers, set(layers), []
    shown = {cut.layer for cut in setting.shown_cuts}
    biases = [cut.bias for cut in setting.cuts if cut.bias and cut.layer in shown]
    return [cut.layer for cut in setting.cuts], shown, biases


def fig7(setting: Setting) -> Outcome:
    """Pictures: all layers and the top two beside the top layer, FullGrad and the input's attribution."""
    every = tuple(cut.layer for cut in setting.cuts)
    plans = {
        "input": MethodPlan("activity", layers=("input",), channels="abs_sum"),
        "FullGrad": MethodPlan("fullgrad", arguments={"rescale": "layer_map"}),
        "top layer": MethodPlan("activity", layers=every[-1:], channels="abs_sum"),
        "top two": MethodPlan("aggregated-activity", layers=every[-2:]),
        "all layers": MethodPlan("aggregated-activity", layers=every),
    }
    methods = {name: setting.method(plan) for name, plan in plans.items()}
    rows = {}
    for i, sample in enumerate(setting.samples(1 if setting.is_quick else 4)):
        x = sample.x[None]
        target, picture = setting.best(x), setting.picture(sample.x)
        rows[f"image {i + 1}"] = [Tile(name, picture, of(x, target)[0]) for name, of in methods.items()]
    path: Path = setting.folder / f"g20-fig7-{setting.name}.png"
    tiles(path, rows, f"{setting.name}: what the evaluation compares")
    return Outcome(pictures=[path])
