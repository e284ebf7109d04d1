"""No page has what axe knows to keep someone from reading it: headings, alternatives, contrast, names, keyboard."""

import os
from pathlib import Path

import pytest

import captum_extract_aggregate as cea
from tests.browser import barriers, open_page

SITE = Path(os.environ.get("CEA_SITE", "/nowhere"))  # the documentation, built
KINDS = {
    "the first page": "index.html",
    "a page with figures": "howto/draw_maps.html",
    "a page of tables": "users_of/gradcam.html",
    "a page of formulas": "methods/cams.html",
    "a tutorial": "tutorials/05_meta_saliency.html",
    "reference": "api/measures_compared.html",
    "search": "search.html",
}


@pytest.mark.parametrize("width", [1100, 390])
def test_the_page_of_maps(tmp_path, width):
    path = cea.explain("scene-resnet", target=3, methods="gradcam,linear-approximation").save(tmp_path / "maps.html")
    with open_page(path.as_uri()) as page:
        page.set_viewport_size({"width": width, "height": 800})
        assert barriers(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        map_, controls = (page.locator(name).bounding_box() for name in ("#map", "form"))
        assert (map_["y"] < controls["y"]) == (width == 390)  # on a phone the map comes first


def test_axe_sees_barriers(tmp_path):
    dark = ":root { color-scheme: light dark } body { background: Canvas } "
    dark += "@media (prefers-color-scheme: dark) { i { color: #333 } }"
    body = "<img src='data:,'><p style='color: #ccc; background: #fff'>pale</p><i>dim</i>"
    (tmp_path / "bad.html").write_text(f"<html><style>{dark}</style><body>{body}</body></html>")
    with open_page((tmp_path / "bad.html").as_uri(), expected="data:") as page:
        found = barriers(page)
    assert any("image-alt" in line for line in found)
    pale = [line.split(": ")[0] for line in found if "color-contrast" in line and "pale" in line]
    dim = [line.split(": ")[0] for line in found if "color-contrast" in line and "dim" in line]
    assert (pale, dim) == (["light", "dark"], ["dark"])


@pytest.mark.skipif(not SITE.is_dir(), reason="needs CEA_SITE, a folder with the documentation built")
def test_the_documentation():
    refused = "blocked by CORS|preload assets|ERR_FAILED"  # axe asks a file for its style sheets
    with open_page((SITE / "index.html").as_uri(), expected=refused) as page:
        found = {}
        for kind, path in KINDS.items():
            page.goto((SITE / path).as_uri())
            for width in (1100, 390):
                page.set_viewport_size({"width": width, "height": 800})
                found[kind, width] = barriers(page, contrast=width == 1100)
        assert not any(found.values()), found
