"""What biases do to decisions: Grabska-Barwinska (2020), section 3 and appendix B."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import make_folder
from captum_extract_aggregate.bias_study import (
    BiasReport,
    InputRobustness,
    RobustnessRow,
    bias_report,
    input_robustness,
    remove_biases,
)
from captum_extract_aggregate.bias_study.robustness import plot_robustness
from captum_extract_aggregate.reproduction.charts import bars, boxes
from captum_extract_aggregate.reproduction.findings import (
    Finding,
    Key,
    Outcome,
    markdown,
    mean_at_least,
    mean_sd,
    smaller,
)
from captum_extract_aggregate.reproduction.setting import Setting

_SCALES = (0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 10.0, 100.0, 1000.0)
_SHIFTS = (-1.0, -0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5, 1.0)  # of the range of pixel values
_QUICK_SCALES, _QUICK_SHIFTS = (0.1, 1.0, 10.0), (-0.25, 0.0, 0.25)
_POINT = 0.01


def report_of(setting: Setting) -> BiasReport:
    """Returns the network compared with itself without biases."""
    n = setting.sizes["maps"] * (1 if setting.is_quick else 10)
    make = lambda: bias_report(setting.network, setting.batches(n), show_progress=setting.show_progress)  # noqa: E731
    return setting.once("bias report", make)


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
        found = robustness_of(setting, n)
        parts += [f"{name}:\n{robust}" for name, robust in found.items()]
        if folder is not None:
            path = folder / f"robustness-{setting.name}.png"
            plot_robustness(found, setting.name).savefig(path, dpi=80)
            parts.append(f"written: {path}")
    return "\n".join(parts)


def fig3(setting: Setting) -> Outcome:
    """Accuracy and decisions of the network as it was trained, and with its biases set to zero."""
    report = report_of(setting)
    picture = setting.folder / f"g20-fig3-{setting.name}.png"
    shares = {
        "as trained": [report.top1, report.top5, torch.ones_like(report.same_decision)],
        "without": [report.top1_without, report.top5_without, report.same_decision],
    }
    heights = {name: [100 * float(v.nan_to_num().nanmean()) for v in of] for name, of in shares.items()}
    bars(picture, ["top-1", "top-5", "same decision"], heights, f"{setting.name}: biases set to zero, %")
    return Outcome([reports_table({"without": report})], _kept(setting, report), [picture])


def _kept(setting: Setting, report: BiasReport) -> list[Finding]:
    """Do most decisions survive without biases (in networks without BatchNorm), or few (in those with it)?"""
    has_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in setting.network.modules())
    same = report.same_decision.tolist()
    if has_norm:
        statement = "with BatchNorm, the network loses most of its decisions when the biases go"
        return [mean_at_least(statement, [1 - v for v in same], 0.5)]
    return [mean_at_least("without BatchNorm, the network keeps 95 % of its decisions without biases", same, 0.95)]


def fig_s3(setting: Setting) -> Outcome:
    """What removing the biases costs: difference in top-1 accuracy, mean and standard error over the images."""
    report = report_of(setting)
    lost = (report.top1 - report.top1_without).tolist()
    defined = [v for v in lost if not math.isnan(v)]
    statement = "removing the biases costs less than a point of accuracy (as networks without BatchNorm in the paper)"
    if not defined:
        return Outcome([], [Finding(statement, None, effect="the images' classes are not known")])
    error = float(torch.tensor(defined).double().std()) / math.sqrt(len(defined))
    row = [setting.name, str(len(defined)), f"{100 * sum(defined) / len(defined):.2f} ± {100 * error:.2f}"]
    findings = [mean_at_least(statement, [-v for v in defined], -_POINT)]
    return Outcome([markdown(["network", "n", "top-1 lost, points"], [row])], findings)


def fig_s4(setting: Setting) -> Outcome:
    """Correlation of the outputs with and without biases, image by image."""
    r = report_of(setting).correlation.tolist()
    picture = setting.folder / f"g20-fig-s4-{setting.name}.png"
    boxes(picture, {"all images": [v for v in r if v == v]}, f"{setting.name}: correlation of outputs without biases")
    table = markdown(["network", "n", "Pearson"], [[setting.name, str(len(r)), mean_sd(r)]])
    statement = "outputs without biases correlate with those with them by .9 or more"
    return Outcome([table], [mean_at_least(statement, r, 0.9)], [picture])


def fig_s5(setting: Setting) -> Outcome:
    """Outputs without biases as a line of those with them, image by image: slope and intercept."""
    report = report_of(setting)
    slope = _keyed(report.slope)
    statement = "outputs without biases are smaller: the slope is below 1"
    finding = smaller(statement, slope, dict.fromkeys(slope, 1.0), magnitude=False)
    cells = [mean_sd(report.slope.tolist()), mean_sd(report.intercept.tolist())]
    return Outcome([markdown(["network", "slope", "intercept"], [[setting.name, *cells]])], [finding])


def reports_table(reports: Mapping[str, BiasReport]) -> str:
    """Returns several reports of one network as a table, in Markdown."""
    header = ["", "n", "biases", "of parameters", "top-1", "top-5", "same decision", "r", "slope", "intercept"]
    first = next(iter(reports.values()))
    share = f"{100 * first.biases / first.parameters:.2f} %"
    trained = [percent(first.top1), percent(first.top5)]
    rows = [["as trained", str(first.n), str(first.biases), share, *trained, *[""] * 4]]
    for name, r in reports.items():
        accuracies = (percent(v) for v in (r.top1_without, r.top5_without, r.same_decision))
        line = (mean_sd(column.tolist()) for column in (r.correlation, r.slope, r.intercept))
        rows.append([name, str(r.n), "0", "", *accuracies, *line])
    return markdown(header, rows)


def fig_s1(setting: Setting) -> Outcome:
    """Accuracy and decisions when the pixels' values are scaled, with and without biases."""
    found = _robustness(setting)
    path = setting.folder / f"g20-fig-s1-{setting.name}.png"
    plot_robustness({k: InputRobustness(v.scales, []) for k, v in found.items()}, setting.name).savefig(path, dpi=80)
    with_biases, without = found["with biases"], found["without biases"]
    findings = []
    for scale in (0.1, 10.0):
        a, b = (next(r for r in robust.scales if r.value == scale) for robust in (with_biases, without))
        statement = f"with biases fewer decisions survive pixel values times {scale:g} than without"
        findings.append(smaller(statement, _keyed(a.same_decision), _keyed(b.same_decision), False))
    return Outcome([_robustness_table(found, "scales")], findings, [path])


def fig_s2(setting: Setting) -> Outcome:
    """Accuracy and decisions when the pixels' values are shifted by a part of their range, with and without biases."""
    found = _robustness(setting)
    path = setting.folder / f"g20-fig-s2-{setting.name}.png"
    plot_robustness({k: InputRobustness([], v.shifts) for k, v in found.items()}, setting.name).savefig(path, dpi=80)
    with_biases, without = found["with biases"], found["without biases"]
    findings = []
    for shift in (-0.25, 0.25):
        a, b = (next(r for r in robust.shifts if r.value == shift) for robust in (with_biases, without))
        statement = f"with biases more decisions survive a shift by {shift:+g} of the range than without"
        findings.append(smaller(statement, _keyed(a.same_decision), _keyed(b.same_decision), False, True))
    return Outcome([_robustness_table(found, "shifts")], findings, [path])


def _robustness(setting: Setting) -> dict[str, InputRobustness]:
    n = setting.sizes["maps"] // 2 if setting.is_quick else 3 * setting.sizes["maps"]
    return setting.once("robustness", lambda: robustness_of(setting, n, setting.is_quick))


def robustness_of(setting: Setting, n: int, few: bool = False) -> dict[str, InputRobustness]:
    """Returns what becomes of decisions when pixels are scaled and shifted before they are normalised."""
    networks = {"with biases": setting.network, "without biases": remove_biases(setting.network)}
    scales, shifts = (_QUICK_SCALES, _QUICK_SHIFTS) if few else (_SCALES, _SHIFTS)
    mean, std = setting.normalisation
    return {
        name: input_robustness(network, setting.batches(n), scales, shifts, setting.show_progress, mean, std)
        for name, network in networks.items()
    }


def _robustness_table(found: Mapping[str, InputRobustness], how: str) -> str:
    header = ["pixels"]
    for name in found:
        header += [f"{name}: top-1", f"{name}: same decision"]
    rows = []
    for lines in zip(*(getattr(robust, how) for robust in found.values())):
        cells = [f"{'times' if how == 'scales' else 'plus'} {lines[0].value:g}"]
        line: RobustnessRow
        for line in lines:
            cells += [percent(line.top1), percent(line.same_decision)]
        rows.append(cells)
    return markdown(header, rows)


def _keyed(values: Tensor) -> dict[Key, float]:
    return {(i, 0): value for i, value in enumerate(values.tolist())}


def percent(values: Tensor) -> str:
    """Returns the mean of zeros and ones in percent; nothing where it is unknown."""
    mean = float(values.nanmean())
    return "" if math.isnan(mean) else f"{100 * mean:.1f} %"
