"""Tables and figures of the three papers as one command, with a verdict on each statement.

A statement holds, does not hold, or cannot be told with so few images; or it cannot be tested on a network or data.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from captum_extract_aggregate._common.errors import InvalidValueError, make_folder, unknown_name
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._common.warned_once import show_warnings_once
from captum_extract_aggregate.attr.layer_weights import NothingToWeighError
from captum_extract_aggregate.evaluation import DataPlan, ModelPlan
from captum_extract_aggregate.reproduction import main_findings
from captum_extract_aggregate.reproduction.experiments import EXPERIMENTS
from captum_extract_aggregate.reproduction.findings import Finding, Outcome, findings_table
from captum_extract_aggregate.reproduction.kept import keep, kept_outcome
from captum_extract_aggregate.reproduction.published import PUBLISHED, counted
from captum_extract_aggregate.reproduction.setting import DATA, QUICK, SIZES, Setting

__all__ = ["EXPERIMENTS", "Finding", "Outcome", "Request", "Setting", "reproduce", "settings_of"]


@dataclass(frozen=True)
class Request:
    """Holds what the command line was asked for."""

    names: tuple[str, ...]
    data: str = "scenes"
    root: Path | None = None
    model: str = ""
    weights: str = ""
    head: str = ""
    layers: tuple[str, ...] = ()
    n: int = 0
    output: Path = Path("reproduction")
    quick: bool = False
    seed: int = 100
    resize: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    annotations: str = ""
    resume: bool = False
    show_progress: bool = field(default=True, compare=False)


def reproduce(request: Request) -> tuple[str, bool]:
    """Runs experiments on each setting and writes a page for each.

    Returns:
        What to tell the user, and whether the main findings still stand (checked in a quick run on the scenes).

    Raises:
        ValueError: for unknown names, or data and models that are not there.
    """
    if request.names == ("list",):
        return listed(), True
    names = list(EXPERIMENTS) if "all" in request.names else list(request.names)
    for name in names:
        if name not in EXPERIMENTS:
            raise InvalidValueError(unknown_name("the table or figure", name, [*EXPERIMENTS, "all", "list"]))
    settings = settings_of(request)
    make_folder("output", request.output)
    with Undo() as undo, undo:
        show_warnings_once(undo)
        return _carried_out(request, names, settings)


def _carried_out(request: Request, names: list[str], settings: list[Setting]) -> tuple[str, bool]:
    lines, all_stand = [], True
    for setting in settings:
        for name in names:
            path = request.output / f"{name}-{setting.name}.md"
            kept = kept_outcome(path.with_suffix(".json")) if request.resume else None
            outcome = carry_out(name, setting) if kept is None else kept
            path.write_text(section(name, setting, outcome), encoding="utf-8")
            if kept is None:
                keep(outcome, path.with_suffix(".json"))
            lines += _told(name, setting, outcome, path)
        if request.quick and setting.name in main_findings.THRESHOLDS:
            for check in main_findings.checks(setting):
                lines.append(str(check))
                all_stand &= check.stands
    return "\n".join(lines), all_stand


def listed() -> str:
    """Returns all names with what they are: the papers' figures and tables by number, further experiments, and what is
    not reproduced."""
    numbers = {p.experiment: f"{p.paper} {p.number}" for p in PUBLISHED if p.experiment}
    done, count = counted()
    lines = [f"{done} of the papers' {count} figures and tables, and {len(EXPERIMENTS) - done} further experiments:"]
    lines += [f"{name:21}{numbers.get(name, 'further'):14}{e.title}" for name, e in EXPERIMENTS.items()]
    lines += [
        f"{'':21}{f'{p.paper} {p.number}':14}{p.shows}: not reproduced, {p.why_not}" for p in PUBLISHED if p.why_not
    ]
    return "\n".join(lines)


def carry_out(name: str, setting: Setting) -> Outcome:
    """Returns what one experiment finds on one setting."""
    experiment = EXPERIMENTS[name]
    if experiment.needs_objects and not setting.has_objects:
        return Outcome(findings=[Finding(experiment.title, None, effect="the images' objects are not known")])
    try:
        return experiment.run(setting)
    except NothingToWeighError as error:  # of one picture of each class, linear probes learn nothing
        return Outcome(findings=[Finding(experiment.title, None, effect=str(error))])


def section(name: str, setting: Setting, outcome: Outcome) -> str:
    """Returns an experiment's text: what it is, tables, findings, pictures."""
    parts = [f"### {name}, {setting.name}", EXPERIMENTS[name].title, *outcome.tables]
    if outcome.findings:
        parts.append(findings_table(outcome.findings))
    parts += [f"![{name} on {setting.name}]({path.name})" for path in outcome.pictures]
    return "\n\n".join(parts) + "\n"


def _told(name: str, setting: Setting, outcome: Outcome, path: Path) -> list[str]:
    lines = [f"{name} on {setting.name}: {path}"]
    for f in outcome.findings:
        about = ", ".join(
            part
            for part in (f"n = {f.n}" if f.n else "", f.effect, f"p = {f.p:.1g}" if f.p == f.p else "", _needed(f))
            if part
        )
        lines.append(f"  {f.verdict}: {f.statement}" + (f" ({about})" if about else ""))
    return lines


def _needed(finding: Finding) -> str:
    if finding.told or math.isnan(finding.needed):
        return ""
    return f"about {finding.needed:.0f} images would tell" if finding.needed < 1e6 else "no number of images would tell"


def settings_of(request: Request) -> list[Setting]:
    """Returns the networks and images that a request names."""
    if request.data not in DATA:
        raise InvalidValueError(unknown_name("data", request.data, DATA))
    if request.n < 0:
        raise InvalidValueError(f"n is {request.n}; expected 0 (as many as each experiment is meant for) or more")
    sizes = dict(QUICK if request.quick else SIZES)
    if request.n:
        sizes = dict.fromkeys(sizes, request.n)
    common = {"folder": request.output, "sizes": sizes, "show_progress": request.show_progress}
    if request.data == "scenes":
        given = ("root", "model", "weights", "head", "layers", "resize", "annotations")
        wrong = [name for name in given if getattr(request, name)]
        if wrong:
            raise InvalidValueError(
                f"{wrong[0]} is given, but the scenes bring their own data and networks; expected none"
            )
        return [
            Setting(
                name,
                ModelPlan(name),
                DataPlan("scenes", n=3 * sizes["maps"], seed=request.seed),
                tolerance=4,
                step=576 if request.quick else 96,
                loss="binary_cross_entropy",
                **common,  # type: ignore[arg-type]
            )
            for name in ("scene-vgg", "scene-resnet")
        ]
    if not request.model or request.root is None:
        raise InvalidValueError(f"data is {request.data!r}, which needs --root and --model; expected both")
    model = ModelPlan(request.model, request.weights, head=request.head)
    name = f"{request.data}-{request.model.replace(':', '-').replace(os.sep, '-').replace('.py', '')}"
    look = {"resize": request.resize, "mean": request.mean, "std": request.std}
    if request.data == "coco" and not request.annotations:
        raise InvalidValueError("data is 'coco', which needs --annotations; expected COCO's file of instances")
    if request.data in ("voc", "coco"):
        where = {"root": str(request.root)} | ({"file": request.annotations} if request.data == "coco" else {})
        data = DataPlan(request.data, **where, **look)  # type: ignore[arg-type]
        return [Setting(name, model, data, wanted_layers=request.layers, loss="binary_cross_entropy", **common)]  # type: ignore[arg-type]
    kind = "folder" if request.root.is_dir() else "list"
    where = {"root": str(request.root)} if kind == "folder" else {"file": str(request.root)}
    data = DataPlan(kind, **where, **look)  # type: ignore[arg-type]
    return [Setting(name, model, data, wanted_layers=request.layers, has_objects=False, **common)]  # type: ignore[arg-type]
