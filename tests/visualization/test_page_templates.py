"""Templates of pages: values are escaped, missing ones are errors, and both pages have one style sheet."""

from importlib.resources import files

import pytest
import torch
from jinja2 import UndefinedError

from captum_extract_aggregate.evaluation import plan_from
from captum_extract_aggregate.evaluation.reporting.maps_page import write_page as write_maps
from captum_extract_aggregate.evaluation.store import Results, Writer
from captum_extract_aggregate.visualization.explain_page import write_page
from captum_extract_aggregate.visualization.page_templates import render
from tests.evaluation.plans import content

HOSTILE = "</script><b>\"'&"


def test_values_are_escaped_and_none_may_be_missing():
    text = render("captum_extract_aggregate.visualization", "explain.html", data={"title": HOSTILE})
    assert HOSTILE not in text
    assert text.count("</script>") == 2
    with pytest.raises(UndefinedError, match="'title' is undefined"):
        render("captum_extract_aggregate.evaluation.reporting", "maps.html")


def test_both_pages_have_one_style_sheet(tmp_path):
    style = (files("captum_extract_aggregate.visualization") / "templates" / "style.css").read_text("utf-8")
    write_page(tmp_path / "a.html", "a", torch.rand(3, 4, 4), [{"m": {"l": torch.rand(1, 2, 2)}}], ["c"], [1.0])
    with Writer(tmp_path, 0, plan_from(content(title=HOSTILE)), 1):
        pass
    write_maps(tmp_path / "b.html", Results(tmp_path), [])
    for name in ("a.html", "b.html"):
        assert style.strip() in (tmp_path / name).read_text("utf-8")
    assert "&lt;/script&gt;&lt;b&gt;&#34;&#39;&amp;: maps</h1>" in (tmp_path / "b.html").read_text("utf-8")
