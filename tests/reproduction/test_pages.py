"""The pages of the reproduction: made from the results beside them, and nothing else."""

import re

import pytest

from benchmarks.reproduction_pages import DOCS, PAGES, RESULTS, page, results, summary
from captum_extract_aggregate.reproduction.findings import FAILS, HOLDS, UNTOLD, Finding, Outcome
from captum_extract_aggregate.reproduction.published import PAPERS


@pytest.mark.parametrize("paper", PAPERS)
def test_a_page_is_what_its_results_say(paper):
    text = page(paper, results())
    assert PAGES.joinpath(f"{paper.lower()}.md").read_text(encoding="utf-8") == text
    for name in re.findall(r"\]\(results/([^)]*)\)", text):
        assert (RESULTS / name).is_file()


def test_the_summary_is_what_the_results_say_and_fits_a_screen():
    text = summary(results())
    assert DOCS.joinpath("reproduction.md").read_text(encoding="utf-8") == text
    assert len(text.splitlines()) < 60


def test_no_results_lie_there_that_no_page_shows():
    known = {f"{name}-{setting}.json" for name, of in results().items() for setting in of}
    assert {path.name for path in RESULTS.glob("*.json")} == known
    shown = {picture.name for of in results().values() for outcome in of.values() for picture in outcome.pictures}
    assert {path.name for path in RESULTS.glob("*.png")} == shown


def test_verdicts_are_counted_told_apart_and_linked():
    findings = [
        Finding("GradCAM fails before a", True, 9, "", 0.01),
        Finding("GradCAM fails before b", False, 9, "", 0.4, False, 71.0),
        Finding("GradCAM fails before c", False, 9, "", 0.01),
        Finding("GradCAM fails before d", True, 9, "", 0.01),
        Finding("another statement", True, 9),
    ]
    text = summary({"r20-fig3": {"scene-vgg": Outcome(findings=findings)}})
    (row,) = [line for line in text.splitlines() if line.startswith("| GradCAM fails before the last layer")]
    assert row.count("](reproduction/r20.md#r20-fig3)") == 1
    assert re.findall(r'title="([^"]*)">(.) (\d)', row) == [(HOLDS, "✓", "2"), (FAILS, "✗", "1"), (UNTOLD, "?", "1")]
    assert len(set(re.findall("background:(#[0-9A-F]{6})", row))) == 3
