"""A whole report of hand-made results."""

import re

import pytest

from captum_extract_aggregate.evaluation import comparisons, summarize
from captum_extract_aggregate.evaluation.plan import MeasurePlan, MethodPlan, Plan
from captum_extract_aggregate.evaluation.reporting.maps_page import write_page
from captum_extract_aggregate.evaluation.reporting.report import write_report
from captum_extract_aggregate.evaluation.store import BatchRows, ImageRow, Results, Writer
from tests.evaluation.hand_made import everything, value_rows, write


def test_everything_is_written_twice_the_same(tmp_path):
    plans, rows = everything()
    results = write(tmp_path / "results", plans, rows, images=12, skipped=[("bad.png", "cannot be read")])
    written = write_report(results, tmp_path / "one", images=[0])
    again = write_report(Results(tmp_path / "results"), str(tmp_path / "two"), images=[0])
    assert [p.name for p in written] == [p.name for p in again]
    for a, b in zip(written, again):
        assert a.read_bytes() == b.read_bytes(), a.name
    names = {p.name for p in written}
    assert {"report.md", "summary.csv", "comparisons.csv", "images.csv", "targets.csv", "rows-mine.csv"} <= names
    assert {"layers-pointing_game.png", "layers-class_sensitivity.png", "boxes-removal_contrast.png"} <= names
    assert "stages-parameter_randomization.png" in names
    text = written[0].read_text()
    assert set(re.findall(r"\]\(([^)]+)\)", text)) <= names | {"maps.html"}  # no link leads nowhere
    assert "12 evaluated, 1 skipped, 13 planned" in text
    assert "| 12 | bad.png | cannot be read |" in text
    assert "Incomplete" not in text
    assert results.plan.hash() in text
    assert "| A | l1 | 2 of 12 | 2 of 12 |" in text  # never flipped
    assert "Stage 1: fc randomised" in text
    assert "Stage 4: conv1 randomised" in text


def test_an_incomplete_evaluation_says_so(tmp_path):
    rows = value_rows("class_sensitivity", "", {("A", "l1"): [0.1, 0.2, 0.3, 0.4]})
    results = write(tmp_path, [MeasurePlan("class_sensitivity")], rows, expected=9)
    write_report(results, tmp_path / "out", images=[7])
    text = (tmp_path / "out" / "report.md").read_text()
    assert "**Incomplete: 4 of 9 images were looked at" in text
    assert "| 7 | not looked at yet |" in text
    write_page(tmp_path / "maps.html", results, [])
    assert "Incomplete: 4 of 9" in (tmp_path / "maps.html").read_text()
    with pytest.raises(ValueError, match="images holds 9; expected image numbers from 0 to 8"):
        write_report(results, tmp_path / "out", images=[9])


def test_a_measure_without_values(tmp_path):
    results = write(tmp_path, [MeasurePlan("pointing_game"), MeasurePlan("class_sensitivity")], [])
    assert summarize(results) == []
    assert comparisons(results) == []
    written = write_report(results, tmp_path / "out")
    assert written[0].read_text().count("There are no values.") == 2
    assert not [p for p in written if p.suffix == ".png"]
    assert (tmp_path / "out" / "rows-pointing_game.csv").read_text().count("\n") == 1


def test_an_evaluation_whose_images_were_all_skipped(tmp_path):
    plan = Plan((MethodPlan("normgrad"),), (MeasurePlan("class_sensitivity"),))
    with Writer(tmp_path, 0, plan, 30) as writer:
        writer.add(0, BatchRows([ImageRow(i, "", -1, "broken") for i in range(30)], [], [], []))
    text = write_report(Results(tmp_path), tmp_path / "out")[0].read_text()
    assert "0 evaluated, 30 skipped, 30 planned" in text
    assert "and 10 more" in text
