"""The text of a report in Markdown."""

import csv
import re

import pytest

from captum_extract_aggregate.evaluation.reporting.report import write_report
from tests.evaluation.hand_made import (
    HOSTILE,
    hostile_results,
)


def test_markdown_shows_names_as_they_are(tmp_path):
    markdown_it = pytest.importorskip("markdown_it")
    results = hostile_results(tmp_path)
    text = write_report(results, tmp_path / "out", images=[0, 4])[0].read_text()
    assert "<script" not in text
    rendered = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert "<script" not in rendered
    assert 'href="b"' not in rendered
    seen = " ".join(re.sub(r"<[^>]+>", " ", rendered).split())
    assert "&lt;script&gt;alert(1)&lt;/script&gt;|&quot;`$x$_ # [a](b)" in seen
    for table in re.findall(r"<table>.*?</table>", rendered, flags=re.DOTALL):
        widths = {len(re.findall(r"<t[hd]", row)) for row in re.findall(r"<tr>.*?</tr>", table, flags=re.DOTALL)}
        assert len(widths) == 1
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["method"] == HOSTILE
