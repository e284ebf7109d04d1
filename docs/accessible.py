"""What the theme and the notebooks leave out for readers who do not see the page, or use no mouse."""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes

_CHANGES = (
    (r'<p class="caption" role="heading">', '<p class="caption" role="heading" aria-level="2">'),
    (r'<aside class="sidebar-drawer">', '<aside class="sidebar-drawer" aria-label="All pages">'),
    (r'<aside class="toc-drawer([^"]*)">', r'<aside class="toc-drawer\1" aria-label="On this page">'),
    (r"<pre>", '<pre tabindex="0">'),  # code that is wider than the page is scrolled by keyboard
    (r'<div class="table-wrapper ', '<div tabindex="0" class="table-wrapper '),
    (r'<th class="head"><p></p></th>', "<td></td>"),  # a corner of a table heads nothing
    (r'<div class="math notranslate', '<div tabindex="0" class="math notranslate'),
)


def describe_figures(app, doctree) -> None:
    """Gives each figure that a cell drew, and that has no words of its own, those of its section."""
    for image in doctree.findall(nodes.image):
        if not image.get("alt") and any("output" in " ".join(up.get("classes", ())) for up in _above(image)):
            titles = [up.next_node(nodes.title) for up in _above(image) if isinstance(up, nodes.section)]
            image["alt"] = f"Figure drawn by the code above: {titles[0].astext() if titles else 'maps'}"


def make_accessible(folder: Path) -> None:
    """Changes the pages that were written."""
    for path in folder.rglob("*.html"):
        before = path.read_text(encoding="utf-8")
        after = before
        for pattern, instead in _CHANGES:
            after = re.sub(pattern, instead, after)
        if "<h1" not in after:  # of the search page
            after = re.sub(r'(<article role="main"[^>]*>)', r"\1<h1>Search</h1>", after)
        if after != before:
            path.write_text(after, encoding="utf-8")


def _above(node):
    while node.parent is not None:
        node = node.parent
        if isinstance(node, nodes.Element):
            yield node
