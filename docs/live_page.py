"""Takes the picture of the live page: `python docs/live_page.py WEIGHTS`, where Chromium and Playwright are.

WEIGHTS is a state dictionary of torchvision's `mobilenet_v2`, trained on ImageNet. The photographs are scikit-image's:
a cat and a cup of coffee (CC0), a rocket and an astronaut (NASA, public domain).
"""

import sys
import tempfile
from pathlib import Path

import skimage.data
from pictures import cat_above_cup
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from captum_extract_aggregate.live import serve

PICTURE = Path(__file__).parent / "live_page.jpg"


def ready(page: Page) -> None:
    """Waits until all maps are there."""
    page.wait_for_selector("canvas.drawn")
    page.wait_for_selector("#progress", state="hidden")
    page.wait_for_selector(".card.waits", state="detached")


def choose(page: Page, card: int, name: str, value: str) -> None:
    """Chooses one value of one map."""
    page.locator(".card").nth(card).get_by_label(name, exact=True).select_option(value)
    ready(page)


if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp())
    photographs = {"cat and cup": cat_above_cup()}
    for name in ("chelsea", "coffee", "rocket", "astronaut"):
        photographs[name] = Image.fromarray(getattr(skimage.data, name)())
    for name, photograph in photographs.items():
        photograph.save(folder / f"{name}.png")
    paths = [folder / f"{name}.png" for name in photographs]
    port = serve("mobilenet_v2", paths, weights=sys.argv[1], blocking=False)
    with sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path="/usr/bin/chromium").new_page()
        page.set_default_timeout(120_000)
        page.set_viewport_size({"width": 1240, "height": 860})
        page.goto(f"http://localhost:{port}/")
        ready(page)
        choose(page, 0, "Class", "285")
        page.click("#more")
        choose(page, 1, "Method", "linear-approximation")
        choose(page, 1, "Class", "967")
        page.locator(".doubt").first.click()
        page.wait_for_selector(".trust table")
        page.screenshot(path=PICTURE, type="jpeg", quality=82, full_page=True)
