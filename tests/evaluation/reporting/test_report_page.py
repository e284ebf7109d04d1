"""The report as one page: what is in it, and in a real browser how its tables are sorted."""

import dataclasses
import importlib.util
import re

import torch

from captum_extract_aggregate.evaluation import DataPlan, MeasurePlan, MethodPlan, Plan, run
from captum_extract_aggregate.evaluation.reporting.maps_page import Entry
from captum_extract_aggregate.evaluation.reporting.report import report, write_report
from tests.browser import barriers, open_page
from tests.evaluation.hand_made import HOSTILE, everything, value_rows, write


def test_every_number_has_its_n_and_nothing_is_loaded(tmp_path):
    plans, rows = everything()
    plans = plans[:2]
    rows = [row for row in rows if row.measure in {plan.measure for plan in plans}]
    results = write(tmp_path / "results", plans, rows, images=12, skipped=[(HOSTILE, "cannot be read")])
    maps = {"A": {"l1": torch.rand(1, 3, 3)}}
    entries = [Entry(0, 0, HOSTILE, torch.rand(3, 8, 8), maps)]
    text = write_report(results, tmp_path / "out", entries=entries)[-1].read_text()
    cells = re.findall(r'<td data-value="[^"]+">(.*?)</td>', text)
    assert len(cells) >= 12
    assert all(re.search(r"<small>n = \d+", cell) for cell in cells)
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert "<script>alert" not in text
    assert text.count("data:image/png") == len(list((tmp_path / "out").glob("*.png"))) + 2  # a picture and its map
    summaries = (tmp_path / "out" / "summary.csv").read_text()
    for value in re.findall(r'data-value="([^"]+)"', text):
        assert value in summaries  # to the last digit


def test_what_is_missing_is_said(tmp_path):
    rows = value_rows("class_sensitivity", "", {("A", "l1"): [0.1, float("nan"), 0.3, 0.4]})
    results = write(tmp_path, [MeasurePlan("class_sensitivity"), MeasurePlan("pointing_game")], rows, expected=9)
    text = write_report(results, tmp_path / "out")[-1].read_text()
    assert "Incomplete: 4 of 9 images were looked at, and the numbers below are of those alone." in text
    assert "<small>n = 3, 1 undefined</small>" in text
    assert "There are no values." in text
    assert "Maps</a>" not in text


def overview(text):
    """The table at the top, cell by cell, without tags."""
    table = re.search(r'aria-label="Overview">(.*?)</table>', text, re.DOTALL)
    rows = re.findall(r"<tr>(.*?)</tr>", table[1], re.DOTALL)
    return [[re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


def test_the_overview_holds_each_method_at_its_best_layer(tmp_path):
    places = {("A", "l1"): [0.1, 0.3], ("A", "l2"): [-0.3, -0.5], ("B", "l1"): [0.9, 0.9], ("B", "l2"): [-0.1, 0.1]}
    plans = [MeasurePlan("class_sensitivity"), MeasurePlan("removal_contrast"), MeasurePlan("own.py:f")]
    rows = value_rows("class_sensitivity", "", places) + value_rows("own.py:f", "", places)
    rows += value_rows("removal_contrast", "delta_minus", places) + value_rows("removal_contrast", "delta", places)
    results = write(tmp_path / "results", plans, rows, images=2)
    assert overview(write_report(results, tmp_path / "out")[-1].read_text()) == [
        ["method", "class_sensitivity", "removal_contrast"],  # of one's own it is unknown what is better
        ["A", "0.200 ± 0.141 n = 2, l1", "0.200 ± 0.141 n = 2, l1"],
        ["B", "0.000 ± 0.141 n = 2, l2", "0.900 ± 0.000 n = 2, l1"],
        ["better", "lower magnitude", "higher delta_minus"],
    ]


def test_one_measure_needs_no_overview(tmp_path):
    rows = value_rows("class_sensitivity", "", {("A", "l1"): [0.1, 0.3]})
    results = write(tmp_path / "results", [MeasurePlan("class_sensitivity")], rows, images=2)
    assert "Overview" not in write_report(results, tmp_path / "out")[-1].read_text()


def test_a_method_that_is_added_to_finished_results_is_in_the_report(tmp_path):
    plan = Plan((MethodPlan("gradcam"),), (MeasurePlan("class_sensitivity"),), DataPlan(n=2), layers=("layer3",))
    report(run(plan, tmp_path / "results", show_progress=False), tmp_path / "out")
    before = (tmp_path / "out" / "report.html").read_text()
    more = dataclasses.replace(plan, methods=(MethodPlan("gradcam"), MethodPlan("layercam")))
    report(run(more, tmp_path / "results", show_progress=False), tmp_path / "out")
    after = (tmp_path / "out" / "report.html").read_text()
    row = re.search(r'<th scope="row">gradcam</th>.*</tr>', before)[0]
    assert row in after  # what was there is there
    assert '<th scope="row">layercam</th>' not in before
    assert '<th scope="row">layercam</th>' in after


def column(page, i):
    cells = page.locator("#measure-0 table").first.locator(f"tbody tr > :nth-child({i})")
    return [text.split(" ")[0] for text in cells.all_inner_texts()]


def test_in_a_browser_tables_are_sorted_by_mouse_and_keyboard(tmp_path):
    values = {"A": 0.2, "B": -0.1, "C": 11.0, "D": 0.5}
    own = {(m, "l1"): [v, v + 0.01] for m, v in values.items()} | {("E", "l1"): [float("nan")] * 2}
    own |= {(m, "l2"): [v * v, v * v] for m, v in values.items()} | {("E", "l2"): [0.3, 0.3]}
    rows = value_rows("class_sensitivity", "", own)
    results = write(tmp_path, [MeasurePlan("class_sensitivity")], rows, images=2, methods=("A", "B", "C", "D", "E"))
    path = write_report(results, tmp_path / "out")[-1]
    with open_page(path.as_uri()) as page:
        assert column(page, 1) == ["A", "B", "C", "D", "E"]
        head = page.locator("#measure-0 table").first.locator("thead th").nth(1)
        head.get_by_role("button").click()
        assert (column(page, 1), head.get_attribute("aria-sort")) == (["B", "A", "D", "C", "E"], "ascending")
        page.keyboard.press("Enter")
        assert (column(page, 1), head.get_attribute("aria-sort")) == (["C", "D", "A", "B", "E"], "descending")
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        assert column(page, 1) == ["B", "A", "D", "E", "C"]
        assert head.get_attribute("aria-sort") is None
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        if importlib.util.find_spec("axe_playwright_python"):
            assert barriers(page) == []
