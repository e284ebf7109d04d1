"""Results made by hand, whose summaries, comparisons and reports are known."""

import numpy as np

from captum_extract_aggregate.evaluation.plan import DataPlan, MeasurePlan, MethodPlan, Plan
from captum_extract_aggregate.evaluation.store import BatchRows, ImageRow, MapRow, Results, Row, TargetRow, Writer

HOSTILE = '<script>alert(1)</script>|"`$x$_\n# [a](b)'


def write(folder, measures, rows, images=4, methods=("A", "B"), layers=("l1", "l2"), expected=None, skipped=(), **kw):
    """A results folder: every image holds class 0; image 0 also the difficult class 1."""
    plan = Plan(
        tuple(MethodPlan("normgrad", label=m) for m in methods), tuple(measures), DataPlan(**kw.pop("data", {})), **kw
    )
    maps = [
        MapRow(m, layer, i, 6 if layer == "l1" else 3, 6 if layer == "l1" else 3, 24, 24)
        for i, (m, layer) in enumerate((m, layer) for m in methods for layer in layers)
    ]
    targets = [TargetRow(i, 0, 2.5, True, False, 2 if i == 0 else 1, "best") for i in range(images)]
    targets.append(TargetRow(0, 1, 0.5, True, True, 2, ""))
    looked_at = [ImageRow(i, f"image {i}", 0, "") for i in range(images)]
    looked_at += [ImageRow(images + i, name, -1, why) for i, (name, why) in enumerate(skipped)]
    folder.mkdir(exist_ok=True)
    with Writer(folder, 0, plan, len(looked_at) if expected is None else expected) as writer:
        writer.add(0, BatchRows(looked_at, targets, maps, rows))
    return Results(folder)


def pointing_rows(hits, measure="pointing_game"):
    """Hits by place, of (image 0, class 0), (0, 1), (1, 0), (2, 0), (3, 0)."""
    pairs = [(0, 0), (0, 1), (1, 0), (2, 0), (3, 0)]
    return [
        Row(i, t, m, layer, measure, "", float(hit))
        for (m, layer), own in hits.items()
        for (i, t), hit in zip(pairs, own)
    ]


def value_rows(measure, detail, by_place, target=0):
    return [
        Row(i, target, m, layer, measure, detail, value)
        for (m, layer), own in by_place.items()
        for i, value in enumerate(own)
    ]


def drawn(n, seed=0, shift=0.0):
    return (np.random.default_rng(seed).normal(size=n) * 0.2 + shift).tolist()


def everything(n=12, measures=None, methods=("A", "B"), layers=("l1", "l2")):
    """All kinds of measures for a report."""
    places = [(m, layer) for m in methods for layer in layers]
    plans = [
        MeasurePlan("pointing_game"),
        MeasurePlan("class_sensitivity"),
        MeasurePlan("pixel_removal"),
        MeasurePlan("removal_contrast"),
        MeasurePlan("parameter_randomization"),
        MeasurePlan("completeness_gap"),
        MeasurePlan("own.py:measure", label="mine"),
    ]
    rows = pointing_rows({p: [i % 2, 1, 1, 0, i % 3 > 0] for i, p in enumerate([*places, ("centre", "image")])})

    def add(measure, detail, shift):
        values = {p: drawn(n, seed=i, shift=shift + 0.1 * i) for i, p in enumerate(places)}
        rows.extend(value_rows(measure, detail, values))

    add("class_sensitivity", "", 0.1)
    for detail in ("e_minus", "e_plus", "e_delta", "pixels_minus", "pixels_plus"):
        add("pixel_removal", detail, 0.5)
    for measure in ("pixel_removal", "removal_contrast"):
        for detail in ("flipped_minus", "flipped_plus"):
            rows.extend(value_rows(measure, detail, {p: [1.0] * (n - 2) + [0.0] * 2 for p in places}))
    for detail in ("delta_minus", "delta_plus", "delta"):
        add("removal_contrast", detail, 0.2)
    for i, name in enumerate(("fc", "layer4", "layer3.1", "conv1")):
        add("parameter_randomization", f"{i:03d} {name}", 0.6 - 0.2 * i)
    add("completeness_gap", "", 0.5)
    add("mine", "", 0.0)
    return plans, rows


def one(lines, **wanted):
    found = [line for line in lines if all(getattr(line, key) == value for key, value in wanted.items())]
    assert len(found) == 1, found
    return found[0]


def hostile_results(folder):
    places = {(HOSTILE, HOSTILE): [0.1, 0.2, 0.3, 0.4], ("B", HOSTILE): [0.3, 0.1, 0.5, 0.2]}
    measures = [
        MeasurePlan("class_sensitivity", label=HOSTILE),
        MeasurePlan("parameter_randomization"),
        MeasurePlan("own.py:f"),
    ]
    rows = value_rows(HOSTILE, "", places)
    rows += value_rows("parameter_randomization", f"000 {HOSTILE}", places)
    rows += value_rows("own.py:f", "", places)
    skipped = [(HOSTILE, HOSTILE)]
    data = {"kind": "list", "file": HOSTILE}
    return write(folder, measures, rows, 4, (HOSTILE, "B"), (HOSTILE,), skipped=skipped, data=data, title=HOSTILE)
