"""What biases do to decisions and to explanations: Grabska-Barwinska (2020), section 3 and appendices B to D."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from captum_extract_aggregate._common.errors import make_folder
from captum_extract_aggregate.attr import ActivityAttribution
from captum_extract_aggregate.bias_study import (
    BiasReport,
    InputRobustness,
    bias_report,
    decay_biases,
    input_robustness,
    plot_decay,
    remove_biases,
)
from captum_extract_aggregate.bias_study.robustness import plot_robustness
from captum_extract_aggregate.data.train_scenes import load_scenes
from captum_extract_aggregate.metrics import removal_contrast
from captum_extract_aggregate.reproduction.charts import boxes
from captum_extract_aggregate.reproduction.findings import Finding, Key, Outcome, markdown, mean_sd, smaller
from captum_extract_aggregate.reproduction.setting import Setting

_KEPT = "decay keeps more decisions than removal"
_LINEAR = 1e-4  # relative; what float32 leaves of an exact sum
_UPDATES, _RATE = 4, 1e-3  # so that the small networks keep up with the decay: chosen by the training loss alone


def removal(setting: Setting) -> Outcome:
    """Biases removed: accuracy before and after, and the outputs image by image (appendix B)."""
    n = 10 * setting.sizes["maps"]
    report = bias_report(setting.network, setting.batches(n), show_progress=setting.show_progress)
    return Outcome([_reports({"without": report})], _removal_findings(report))


def told(setting: Setting, n: int, with_robustness: bool, folder: Path | None) -> str:
    """Returns the bias report of a setting as text, for the command line; one row per image, and the picture, in a
    folder."""
    show = setting.show_progress
    report = bias_report(setting.network, setting.batches(n), show_progress=show)
    parts = [f"{setting.name}: {report}"]
    if folder is not None:
        make_folder("output", folder)
        path = folder / f"bias-report-{setting.name}.csv"
        report.save(path)
        parts.append(f"written: {path}")
    if with_robustness:
        found = _robustness_of(setting, n)
        parts += [f"{name}:\n{robust}" for name, robust in found.items()]
        if folder is not None:
            path = folder / f"robustness-{setting.name}.png"
            plot_robustness(found, setting.name).savefig(path, dpi=80)
            parts.append(f"written: {path}")
    return "\n".join(parts)


def _removal_findings(report: BiasReport) -> list[Finding]:
    r, slope = report.correlation, report.slope
    zero, one = torch.zeros_like(r), torch.ones_like(r)
    found = [
        smaller("outputs without biases correlate with the outputs with them", _keyed(r), _keyed(zero), False, True),
        smaller("outputs without biases are smaller: slope below 1", _keyed(slope), _keyed(one), False),
    ]
    if not bool(report.top1.isnan().all()):
        a, b = _keyed(report.top1_without), _keyed(report.top1)
        found.append(smaller("removing the biases costs accuracy (top-1)", a, b, False))
    return found


def _reports(reports: Mapping[str, BiasReport]) -> str:
    header = ["", "n", "biases", "of parameters", "top-1", "top-5", "same decision", "r", "slope", "intercept"]
    first = next(iter(reports.values()))
    share = f"{100 * first.biases / first.parameters:.2f} %"
    rows = [
        ["as trained", str(first.n), str(first.biases), share, _percent(first.top1), _percent(first.top5), *[""] * 4]
    ]
    rows += [
        [
            name,
            str(r.n),
            "0",
            "",
            _percent(r.top1_without),
            _percent(r.top5_without),
            _percent(r.same_decision),
            *(mean_sd(column.tolist()) for column in (r.correlation, r.slope, r.intercept)),
        ]
        for name, r in reports.items()
    ]
    return markdown(header, rows)


def robustness(setting: Setting) -> Outcome:
    """Accuracy when the input is scaled or shifted, with and without biases (supplementary Figures 1 and 2)."""
    found = _robustness_of(setting, setting.sizes["maps"] * (1 if setting.is_quick else 3))
    path = setting.folder / f"g20-robustness-{setting.name}.png"
    plot_robustness(found, setting.name).savefig(path, dpi=80)
    return Outcome(
        [_robustness_table(found)], _robustness_findings(found["with biases"], found["without biases"]), [path]
    )


def _robustness_of(setting: Setting, n: int) -> dict[str, InputRobustness]:
    networks = {"with biases": setting.network, "without biases": remove_biases(setting.network)}
    return {
        name: input_robustness(network, setting.batches(n), show_progress=setting.show_progress)
        for name, network in networks.items()
    }


def _robustness_table(found: Mapping[str, InputRobustness]) -> str:
    header = ["input"]
    for name in found:
        header += [f"{name}: top-1", f"{name}: same decision"]
    rows = []
    for how in ("scales", "shifts"):
        for lines in zip(*(getattr(robust, how) for robust in found.values())):
            cells = [f"{'times' if how == 'scales' else 'plus'} {lines[0].value:g}"]
            for line in lines:
                cells += [_percent(line.top1), _percent(line.same_decision)]
            rows.append(cells)
    return markdown(header, rows)


def _robustness_findings(with_biases: InputRobustness, without: InputRobustness) -> list[Finding]:
    kept = [float(row.same_decision.nanmean()) for row in without.scales]
    everywhere = f"{100 * min(kept):.1f} % of the decisions at the worst scale"
    found = [Finding("without biases the scale of the input does not matter", min(kept) > 0.999, without.n, everywhere)]
    for scale in (0.1, 10.0):
        a, b = (next(r for r in robust.scales if r.value == scale) for robust in (with_biases, without))
        statement = f"with biases fewer decisions survive a scale of {scale:g} than without"
        found.append(smaller(statement, _keyed(a.same_decision), _keyed(b.same_decision), False))
    for shift in (-1.0, 1.0):
        a, b = (next(r for r in robust.shifts if r.value == shift) for robust in (with_biases, without))
        statement = f"with biases more decisions survive a shift of {shift:+g} than without"
        found.append(smaller(statement, _keyed(a.same_decision), _keyed(b.same_decision), False, True))
    return found


class _Explained(NamedTuple):
    """Holds activity attributions of a network's decisions: for each layer one value per image."""

    gap: Tensor  # layers x images: relative
    same_sign: Tensor
    delta: Tensor


def decay(setting: Setting) -> Outcome:
    """Biases decayed: the network before and after, and what its activities explain (Figures 4, 9 and 10)."""
    if not setting.model.name.startswith("scene-"):
        why = "decaying takes the network's own training data"
        return Outcome(findings=[Finding(_KEPT, None, effect=why)])
    quick = setting.is_quick
    images, classes = load_scenes(320 if quick else 3200, 1, "train", setting.show_progress)
    loader = DataLoader(TensorDataset(images, classes), 16 if quick else 32, shuffle=True)
    decayed, history = decay_biases(
        setting.network, loader, 10 if quick else 200, _UPDATES, _RATE, show_progress=setting.show_progress
    )
    curves = setting.folder / f"g20-bias-decay-{setting.name}.png"
    plot_decay(history).savefig(curves, dpi=80)
    n, show = setting.sizes["maps"] * (1 if quick else 3), setting.show_progress
    reports = {
        "removed": bias_report(setting.network, setting.batches(n), show_progress=show),
        "decayed": bias_report(setting.network, setting.batches(n), decayed, show_progress=show),
    }
    layers = setting.layers  # ends of stages, which nothing bypasses
    before, after = (_explained(setting, network, layers) for network in (setting.network, decayed))
    pictures = [curves, _deltas(setting, layers, before, after)]
    table = _explanations(layers, before, after)
    return Outcome([_reports(reports), table], _decay_findings(reports, before, after), pictures)


def _explained(setting: Setting, network: nn.Module, layers: Sequence[str]) -> _Explained:
    """Returns the activity attributions of each image's best class."""
    parts: list[_Explained] = []
    method = ActivityAttribution(network, list(layers))
    for x, _ in setting.batches(setting.sizes["stages" if setting.is_quick else "removal"], 8):
        if len(x) == 1:
            continue  # there is no other image to compare with
        with torch.no_grad():
            scores, best = network(x).max(1)
        maps = method.attribute(x, target=best)
        sums = torch.stack([m.double().sum((1, 2, 3)) for m in maps])
        gap = (sums - scores).abs() / scores.abs()
        deltas = [removal_contrast(network, x, m, step=setting.step).delta_minus for m in maps]
        parts.append(_Explained(gap, (sums.sign() == scores.sign()).double(), torch.stack(deltas).double()))
    return _Explained(*(torch.cat(columns, 1) for columns in zip(*parts)))


def _explanations(layers: Sequence[str], before: _Explained, after: _Explained) -> str:
    header = ["layer"]
    for name in ("relative gap (median)", "sum has the score's sign", "δe₋"):
        header += [f"{name}, with biases", "decayed"]
    rows = []
    for i, layer in enumerate(layers):
        cells = [layer]
        cells += [f"{e.gap[i].median():.1e}" for e in (before, after)]
        cells += [_percent(e.same_sign[i]) for e in (before, after)]
        cells += [mean_sd(e.delta[i].tolist()) for e in (before, after)]
        rows.append(cells)
    return markdown(header, rows)


def _decay_findings(reports: Mapping[str, BiasReport], before: _Explained, after: _Explained) -> list[Finding]:
    removed, decayed = (_keyed(reports[name].same_decision) for name in ("removed", "decayed"))
    worst = float(after.gap.max())
    complete = Finding(
        "without biases the activities at the end of every stage add up to the score",
        worst < _LINEAR,
        after.gap.shape[1],
        f"largest relative gap {worst:.1e}; with biases {float(before.gap.max()):.1e}",
    )
    sign = "decayed biases make signs stable: more layers whose sum has the score's sign"
    delta = "decayed biases improve activity attributions: δe₋, mean over the layers"
    return [
        smaller(_KEPT, decayed, removed, False, True),
        complete,
        smaller(sign, _keyed(after.same_sign.mean(0)), _keyed(before.same_sign.mean(0)), False, True),
        smaller(delta, _keyed(after.delta.mean(0)), _keyed(before.delta.mean(0)), False, True),
    ]


def _deltas(setting: Setting, layers: Sequence[str], before: _Explained, after: _Explained) -> Path:
    path = setting.folder / f"g20-bias-decay-maps-{setting.name}.png"
    groups = {}
    for i, layer in enumerate(layers):
        groups[f"{layer}, with biases"] = [v for v in before.delta[i].tolist() if v == v]
        groups[f"{layer}, decayed"] = [v for v in after.delta[i].tolist() if v == v]
    boxes(path, groups, f"{setting.name}: δe₋ of activities")
    return path


def _keyed(values: Tensor) -> dict[Key, float]:
    return {(i, 0): value for i, value in enumerate(values.tolist())}


def _percent(values: Tensor) -> str:
    mean = float(values.nanmean())
    return "" if math.isnan(mean) else f"{100 * mean:.1f} %"
