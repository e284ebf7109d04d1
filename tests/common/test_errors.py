"""Every error for a user's mistake is the package's own, and a ValueError or TypeError too."""

import ast
from pathlib import Path

import pytest

import captum_extract_aggregate as cea
from captum_extract_aggregate._common.errors import unknown_name

SOURCES = sorted(Path(cea.__file__).parent.rglob("*.py"))


def raised(tree):
    """The names of what a module raises or hands out to be raised."""
    for node in ast.walk(tree):
        value = node.exc if isinstance(node, ast.Raise) else node.value if isinstance(node, ast.Return) else None
        called = value.func if isinstance(value, ast.Call) else value
        if isinstance(called, ast.Name):
            yield called.id, node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(SOURCES[0].parent)))
def test_nothing_raises_pythons_own(path):
    found = [(name, line) for name, line in raised(ast.parse(path.read_text())) if name in ("ValueError", "TypeError")]
    assert found == []


def test_both_kinds_have_one_base():
    for kind, pythons in ((cea.InvalidValueError, ValueError), (cea.InvalidTypeError, TypeError)):
        assert issubclass(kind, pythons)
        assert issubclass(kind, cea.CaptumExtractAggregateError)


def test_names_that_hold_what_was_typed_as_a_word_come_first():
    names = ["crate", "oxcart", "tiger cat", "cat-bird", "tabby, tabby cat", "castle", "a cattery"]
    told = unknown_name("target", "Cat", names)
    assert told == "target is 'Cat', which is unknown; did you mean 'tiger cat', 'cat-bird', 'tabby, tabby cat'?"
    assert unknown_name("target", "casle", names).endswith("did you mean 'castle', 'crate'?")
    assert unknown_name("target", "", ["a"]).endswith("expected one of 'a'")
