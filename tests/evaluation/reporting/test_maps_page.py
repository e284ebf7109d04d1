"""The page of maps, as a browser would see it."""

import html.parser
import math

import pytest
import torch

from captum_extract_aggregate.evaluation.plan import MeasurePlan
from captum_extract_aggregate.evaluation.reporting.maps_page import Entry, write_page
from tests.browser import barriers, open_page
from tests.evaluation.hand_made import HOSTILE, everything, hostile_results, value_rows, write


class Tags(html.parser.HTMLParser):
    """What a browser would see."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.stack, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text += data


def entry(image=0, target=0, name="seven", methods=("A", "B"), layers=("l1", "l2")):
    generator = torch.Generator().manual_seed(image)
    maps = {m: {layer: torch.randn(1, 6, 6, generator=generator) for layer in layers} for m in methods}
    return Entry(image, target, name, torch.rand(3, 30, 40, generator=generator), maps)


def test_the_page_shows_names_as_they_are(tmp_path):
    results = hostile_results(tmp_path)
    path = tmp_path / "maps.html"
    hostile = entry(0, 0, HOSTILE, (HOSTILE,), (HOSTILE,))
    write_page(path, results, [hostile, entry(4, 0, "x", (HOSTILE,), (HOSTILE,))])
    seen = Tags(path.read_text())
    assert not seen.stack
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in seen.tags}
    assert seen.text.count(HOSTILE) >= 6
    for tag, attributes in seen.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        if tag == "img":
            assert attributes["src"].startswith("data:image/png;base64,")
            assert attributes["alt"]
    assert any(HOSTILE in a.get("alt", "") for _, a in seen.tags)
    policy = [a["content"] for tag, a in seen.tags if tag == "meta" and a.get("http-equiv")]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_the_page_holds_maps_and_their_numbers(tmp_path):
    plans, rows = everything()
    results = write(tmp_path, plans, rows, images=12)
    path = tmp_path / "maps.html"
    write_page(path, results, [entry(0), entry(0, 1, "one"), entry(11)])
    text = path.read_text()
    again = tmp_path / "again.html"
    write_page(again, results, [entry(0), entry(0, 1, "one"), entry(11)])
    assert again.read_bytes() == path.read_bytes()
    seen = Tags(text)
    assert sum(tag == "img" for tag, _ in seen.tags) == 3 * (1 + 4)
    value = results.rows("class_sensitivity", "", "A", "l1")[0].value
    assert f"class_sensitivity {value:.4g}" in seen.text
    assert "Class 1, one; score 0.500; in the image; difficult." in seen.text
    assert "image 11" in seen.text
    ids = {a["id"] for _, a in seen.tags if "id" in a}
    assert {a["href"][1:] for tag, a in seen.tags if tag == "a"} <= ids
    assert len(text) < 15 * 40_000


def test_the_page_of_unusual_entries(tmp_path):
    rows = value_rows("class_sensitivity", "", {("A", "l1"): [math.nan, 0.2, 0.3, 0.4]})
    results = write(tmp_path, [MeasurePlan("class_sensitivity")], rows)
    maps = {"A": {"l1": torch.full((3, 3), math.nan)}, "B": {"l2": torch.zeros(1, 5, 5)}}
    write_page(tmp_path / "a.html", results, [Entry(0, 0, "zero", torch.rand(3, 400, 3), maps)])
    assert "class_sensitivity undefined" in (tmp_path / "a.html").read_text()
    with pytest.raises(ValueError, match=r"picture has shape \(1, 4, 4\); expected 3 x H x W"):
        write_page(tmp_path / "a.html", results, [Entry(0, 0, "zero", torch.rand(1, 4, 4), maps)])


def test_nothing_keeps_anyone_from_reading_it(tmp_path):
    plans, rows = everything()
    write_page(tmp_path / "maps.html", write(tmp_path, plans, rows, images=12), [entry(0), entry(11)])
    with open_page((tmp_path / "maps.html").as_uri()) as page:
        page.set_viewport_size({"width": 390, "height": 800})
        assert barriers(page) == []
