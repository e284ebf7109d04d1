"""A real browser for tests: Debian's Chromium, driven by Playwright."""

import contextlib
import re
import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextlib.contextmanager
def open_page(url, expected=r"(?!)"):
    """The page at a URL; whatever it says on its console (but for what is `expected`) or throws is a failure."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs a browser: apt-get install chromium")
    said = []
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 800})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(url)
        yield page
        browser.close()
    said = [text for text in said if not re.search(expected, text)]
    assert said == [], said


def barriers(page, contrast=True):
    """What axe finds on a page that keeps someone from reading or using it, contrast in light and in dark among it: a
    line for each element."""
    module = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")

    def found(scheme, **options):
        page.emulate_media(color_scheme=scheme)
        violations = module.Axe().run(page, options={"resultTypes": ["violations"], **options}).response["violations"]
        return [
            f"{scheme}: {each['id']} ({each['help']}): {node['html'][:200]}"
            for each in violations
            for node in each["nodes"]
        ]

    if not contrast:
        return found("light", rules={"color-contrast": {"enabled": False}})
    dark = found("dark", runOnly=["color-contrast"])
    return [*found("light"), *dark]
