"""Similarity of maps to the original while a network is randomised block by block, at every stage."""

from __future__ import annotations

from collections.abc import Sequence

from captum_extract_aggregate.evaluation import MeasurePlan, Results
from captum_extract_aggregate.reproduction.charts import curves
from captum_extract_aggregate.reproduction.findings import Finding, Outcome, markdown, mean_sd, smaller, values_of
from captum_extract_aggregate.reproduction.r20_results import defined_mean
from captum_extract_aggregate.reproduction.setting import Setting

# The two readings of K20's N(0, 0.01): 0.01 as the standard deviation, and, as the notation is mostly read, as the
# variance. Each is a measure of its own.
READINGS = {"normal": "standard deviation 0.01", "normal_variance": "variance 0.01"}
NO_RULE = "no rule for some of this network's operations, or nothing for its rule to act on"


def randomization_measures(setting: Setting, similarity: str, inits: Sequence[str]) -> list[MeasurePlan]:
    """Returns one measure for each way to draw parameters, labelled by it."""
    arguments = {"layers": setting.stages, "similarity": similarity}
    return [MeasurePlan("parameter_randomization", init, arguments | {"init": init}) for init in inits]


def randomization_outcome(
    setting: Setting,
    results: Results,
    name: str,
    pairs: Sequence[tuple[str, str]],
    measure: str = "parameter_randomization",
    less: bool = False,
) -> Outcome:
    """Curves over the stages; each pair: is the first more sensitive to the parameters than the second, at each stage?

    `less`: is it less sensitive, that is, does it stay more like the original?
    """
    details = [detail for of, detail in results.measures() if of == measure]
    shown = {row.method: row.layer for row in results.maps()}
    values = {m: [values_of(results, measure, m, at, d) for d in details] for m, at in shown.items()}
    stages = [detail.split(" ", 1)[1] for detail in details]
    drawn = READINGS.get(measure, "")
    rows = [[m, *(mean_sd(list(v.values())) for v in values[m])] for m in shown]
    means = {m: [defined_mean(v) for v in values[m]] for m in shown}
    picture = setting.folder / f"{name}-{setting.name}.png"
    title = f"{setting.name}: similarity to the original map, randomised from the output on{drawn and f' ({drawn})'}"
    curves(picture, stages, means, {}, title, {})
    findings = []
    for first, second in pairs:
        for i, stage in enumerate(stages):
            said = "stays more like its original" if less else "depends more on the parameters"
            where = f"{i + 1} of {len(stages)} blocks random, to {stage}{drawn and f', {drawn}'}"
            statement = f"{first} {said} than {second} ({where})"
            if first in values and second in values:
                findings.append(smaller(statement, values[first][i], values[second][i], larger=less))
            else:
                findings.append(Finding(statement, None, effect=NO_RULE))
    return Outcome([markdown([drawn or "method", *stages], rows)], findings, [picture])


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """Returns several outcomes as one."""
    made = Outcome()
    for outcome in outcomes:
        made.tables += outcome.tables
        made.findings += outcome.findings
        made.pictures += outcome.pictures
    return made
