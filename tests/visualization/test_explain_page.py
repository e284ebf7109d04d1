"""The interactive page: what is in it, and in a real browser what it shows."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from captum_extract_aggregate._common.tensors import upsample
from captum_extract_aggregate.cli import app
from captum_extract_aggregate.visualization.blending import colours_of
from captum_extract_aggregate.visualization.explain_page import write_page
from tests.browser import open_page

PICTURE = torch.rand(3, 24, 36, generator=torch.Generator().manual_seed(0))
EVIL = '</script><script>alert("x")</script><b>&amp;'
generator = torch.Generator().manual_seed(1)
MAPS = [
    {
        "positive": {"a": torch.rand(1, 3, 4, generator=generator) * s, "b": torch.rand(1, 1, 1, generator=generator)},
        "signed": {"b": torch.randn(1, 6, 9, generator=generator) * s, EVIL: torch.randn(3, 24, 36)},
        "zero": {"a": torch.zeros(1, 2, 2)},
        "undefined": {"a": torch.tensor([[[torch.nan, 1.0]]])},
    }
    for s in (1.0, 5.0)
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "maps.html"
    write_page(path, f"A title {EVIL}", PICTURE, MAPS, ["cat", EVIL], [7.123, -1.0])
    return path


def content(path):
    text = path.read_text(encoding="utf-8")
    return text, json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_it_holds_everything_and_loads_nothing(path):
    text, data = content(path)
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("</script>") == 2
    assert data["classes"] == [{"name": "cat", "score": "7.12"}, {"name": EVIL, "score": "-1.00"}]
    assert [method["name"] for method in data["methods"]] == ["positive", "signed", "zero", "undefined"]
    assert [method["signed"] for method in data["methods"]] == [False, True, False, False]
    assert data["methods"][0]["layers"]["a"][1]["height"] == 3


def test_the_maps_are_there_to_eight_bits(path):
    _, data = content(path)
    for t, own in enumerate(MAPS):
        for method in data["methods"]:
            for layer, entries in method["layers"].items():
                entry, wanted = entries[t], own[method["name"]][layer].sum(0)
                values = np.frombuffer(base64.b64decode(entry["values"]), np.int8).reshape(entry["height"], -1)
                found = torch.tensor(values / 127 * entry["scale"])
                assert entry["undefined"] == bool(wanted.isnan().any())
                torch.testing.assert_close(found, wanted.nan_to_num().double(), rtol=0, atol=entry["scale"] / 250)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"picture": PICTURE[:1]}, "picture has shape"),
        ({"classes": ["cat"]}, "maps, classes and scores are 2, 1 and 2"),
        ({"maps": [], "classes": [], "scores": []}, "are 0, 0 and 0"),
        ({"maps": [{"a": {"b": torch.rand(1, 2, 2)}}, {"a": {"c": torch.rand(1, 2, 2)}}]}, "differ in their methods"),
        (
            {"maps": [{"a": {"b": torch.rand(1, 5)}}] * 2},
            r"the map of 'a' at 'b' has shape \(1, 5\); expected 1 x h x w",
        ),
    ],
)
def test_wrong_uses(change, said, tmp_path):
    given = {"title": "", "picture": PICTURE, "maps": MAPS, "classes": ["a", "b"], "scores": [1.0, 2.0]}
    with pytest.raises(ValueError, match=said):
        write_page(tmp_path / "maps.html", **given | change)


NAMES = ["features.3", "10", "2", "__proto__", "constructor", "</script><img src=x onerror=throw(1)>", "@DATA@", "<!--"]


def test_in_a_browser_names_of_any_kind_are_text(tmp_path):
    maps = {name: {layer: torch.rand(1, 2, 2) for layer in NAMES} for name in NAMES}
    write_page(tmp_path / "maps.html", NAMES[5], PICTURE, [maps] * len(NAMES), NAMES, [0.0] * len(NAMES))
    with open_page((tmp_path / "maps.html").as_uri()) as page:
        page.wait_for_function("document.getElementById('map').width == 36")
        assert page.title() == page.inner_text("h1") == NAMES[5]
        for box in ("#methods", "#layers"):
            assert page.locator(f"{box} label").all_inner_texts() == NAMES  # in their order
        assert [text.split("\n")[0] for text in page.locator("#classes label").all_inner_texts()] == NAMES
        assert page.locator("img").count() == 1
        for i, name in enumerate(NAMES):
            page.locator("#layers label").nth(i).click()
            assert page.inner_text("#caption") == f"features.3 at {name}, for features.3 (score 0.00)"


def shown(page):
    """The canvas as pixels."""
    url = page.evaluate("document.getElementById('map').toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")).astype(int)


def drawn(map_, scale, sign, opacity=0.9):
    """What the page has to draw, by torch and matplotlib."""
    values = upsample(map_.sum(0)[None, None], PICTURE.shape[1:])[0, 0].numpy() / float(scale)
    share = (values + 1) / 2 if sign == "all" else values.clip(min=0)
    colours = colours_of(sign)(np.rint(255 * share).astype(int), bytes=True)[..., :3]
    covered = opacity * np.sqrt(np.abs(values).clip(max=1))[..., None]
    return (1 - covered) * pale() + covered * colours


def pale():
    picture = PICTURE.mul(255).round().permute(1, 2, 0).numpy()
    return (picture + picture.mean(2, keepdims=True)) / 2


def test_in_a_browser_it_draws_the_maps(path):
    with open_page(path.as_uri()) as page:
        page.wait_for_function("document.getElementById('map').width == 36")
        assert page.title() == f"A title {EVIL}"
        assert (
            np.abs(shown(page) - drawn(MAPS[0]["positive"]["b"], MAPS[0]["positive"]["b"].max(), "positive")).max() < 8
        )
        page.get_by_label("signed", exact=True).check()
        page.locator("#layers").get_by_label("b", exact=True).check()
        map_ = MAPS[0]["signed"]["b"]
        assert np.abs(shown(page) - drawn(map_, map_.abs().max(), "all")).mean() < 2
        page.get_by_label("one scale for all classes").check()
        scale = MAPS[1]["signed"]["b"].abs().max()
        assert np.abs(shown(page) - drawn(map_, scale, "all")).mean() < 2
        page.locator("#classes label").nth(1).click()
        assert np.abs(shown(page) - drawn(MAPS[1]["signed"]["b"], scale, "all")).mean() < 2
        assert page.inner_text("#caption") == f"signed at b, for {EVIL} (score -1.00)"
        page.get_by_label("zero").check()
        assert page.inner_text("#caption").endswith("zero everywhere")
        page.get_by_label("undefined").check()
        assert page.inner_text("#caption").endswith("undefined somewhere")


def test_in_a_browser_by_keyboard(path):
    with open_page(path.as_uri()) as page:
        page.wait_for_function("document.getElementById('map').width == 36")
        captions, pictures = [page.inner_text("#caption")], [shown(page)]
        for key in ("Tab", "ArrowDown", "Tab", "ArrowUp", "Tab", "ArrowDown", "Tab", "Space", "Tab", "Home"):
            page.keyboard.press(key)
            captions.append(page.inner_text("#caption"))
            pictures.append(shown(page))
        assert captions[0] == "positive at b, for cat (score 7.12)"
        assert captions[2].startswith("signed at b, for cat")
        assert captions[4].startswith(f"signed at {EVIL}, for cat")
        assert captions[6].endswith("(score -1.00)")
        assert page.is_checked("#shared")
        assert page.input_value("#opacity") == "0"
        assert np.abs(pictures[-1] - pale()).max() <= 1  # the map is transparent now
        assert np.abs(pictures[2] - pictures[0]).mean() > 5


def test_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(
        app, ["explain", "--methods", "selective-normgrad,cumulative-gradcam", "--html", "maps.html"]
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "page written to maps.html"
    _, data = content(tmp_path / "maps.html")
    assert len(data["classes"]) == 5
    assert [list(m["layers"]) for m in data["methods"]] == [["layer1", "layer2", "layer3", "layer4"], ["all layers"]]
    with open_page((tmp_path / "maps.html").as_uri()) as page:
        page.wait_for_function("document.getElementById('map').width == 96")
        first = shown(page)
        page.locator("#classes label").nth(4).click()
        assert np.abs(shown(page) - first).mean() > 0.1


@pytest.mark.parametrize(("html", "said"), [("maps.png", "expected a .html file"), ("no/maps.html", "does not exist")])
def test_where_the_page_cannot_go(html, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["explain", "--html", html])
    assert result.exit_code == 2
    assert said in result.stderr
