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
    "a tutorial": "tutorials/01_from_gradcam_to_normgrad.html",
    "reference": "api/cams.html",
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
    (tmp_path / "bad.html").write_text("<html><body><img src='data:,'><p style='color: #ccc'>pale</p></body></html>")
    with open_page((tmp_path / "bad.html").as_uri(), expected="data:") as page:
        found = " ".join(barriers(page))
    assert "image-alt" in found
    assert "color-contrast" in found


@pytest.mark.skipif(not SITE.is_dir(), reason="needs CEA_SITE, a folder with the documentation built")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [1100, 390])
def test_the_documentation(kind, width):
    refused = "blocked by CORS|preload assets|ERR_FAILED"  # axe asks a file for its style sheets
    with open_page((SITE / KINDS[kind]).as_uri(), expected=refused) as page:
        page.set_viewport_size({"width": width, "height": 800})
        assert barriers(page) == []
