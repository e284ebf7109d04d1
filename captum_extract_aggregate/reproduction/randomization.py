"""Similarity of maps to the original while a network is randomised block by block."""

from __future__ import annotations

from captum_extract_aggregate.evaluation import Results
from captum_extract_aggregate.reproduction.charts import curves
from captum_extract_aggregate.reproduction.findings import (
    Finding,
    Outcome,
    markdown,
    mean_sd,
    smaller,
    values_of,
)
from captum_extract_aggregate.reproduction.r20_results import defined_mean
from captum_extract_aggregate.reproduction.setting import Setting


def randomization_outcome(
    setting: Setting, results: Results, layer: str | None, name: str, pairs: list[tuple[str, str]]
) -> Outcome:
    """Curves over the stages; each pair: is the first more sensitive to the parameters than the second, at the end?"""
    details = [detail for measure, detail in results.measures() if measure == "parameter_randomization"]
    shown = {row.method: row.layer for row in results.maps()}
    values = {m: [values_of(results, "parameter_randomization", m, at, d) for d in details] for m, at in shown.items()}
    stages = [detail.split(" ", 1)[1] for detail in details]
    rows = [[m, *(mean_sd(list(v.values())) for v in values[m])] for m in shown]
    means = {m: [defined_mean(v) for v in values[m]] for m in shown}
    picture = setting.folder / f"{name}-{setting.name}.png"
    curves(
        picture, stages, means, {}, f"{setting.name}: similarity to the original map, randomised from the output on", {}
    )
    findings = []
    for first, second in pairs:
        statement = f"{first} depends more on the parameters than {second} (all {len(stages)} blocks random)"
        if first in values and second in values:
            findings.append(smaller(statement, values[first][-1], values[second][-1]))
        else:
            findings.append(Finding(statement, None, effect="no rule for some of this network's operations"))
    return Outcome([markdown(["method", *stages], rows)], findings, [picture])
