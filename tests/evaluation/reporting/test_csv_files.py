"""The numbers of a report as CSV."""

import csv
import math

import numpy as np

from captum_extract_aggregate.evaluation.plan import MeasurePlan
from captum_extract_aggregate.evaluation.reporting.report import write_report
from tests.evaluation.hand_made import (
    value_rows,
    write,
)


def test_csv_holds_every_digit(tmp_path):
    values = {("A", "l1"): [0.1 + 0.2, math.nan, 1e-300, 1 / 3], ("B", "l1"): [1.0, 2.0, 3.0, math.inf]}
    rows = value_rows("completeness_gap", "", values)
    results = write(tmp_path, [MeasurePlan("completeness_gap")], rows, layers=("l1",))
    write_report(results, tmp_path / "out")
    with (tmp_path / "out" / "rows-completeness_gap.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    got = {(r["method"], r["layer"]): [] for r in read}
    for r in read:
        got[r["method"], r["layer"]].append(float(r["value"]))
    for place, own in values.items():
        assert np.array_equal(got[place], own, equal_nan=True)
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        summary = list(csv.DictReader(file))
    assert float(summary[1]["median"]) == 2.5


def test_measures_whose_labels_make_the_same_file_name(tmp_path):
    labels = ["a/b", "a:b", "A b", "../..", "CON|", "summary"]
    measures = [MeasurePlan("class_sensitivity", label=label) for label in labels]
    rows = [row for label in labels for row in value_rows(label, "", {("A", "l1"): [0.1, 0.2, 0.3, 0.4]})]
    written = write_report(write(tmp_path, measures, rows), tmp_path / "out")
    assert len({p.name.lower() for p in written}) == len(written)
    assert {p.resolve().parent for p in written} == {(tmp_path / "out").resolve()}
