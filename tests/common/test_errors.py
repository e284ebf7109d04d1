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


def test_of_many_names_the_first_and_the_last_are_listed():
    layers = [f"features.{i}" for i in range(50)] + ["classifier.0", "classifier.1"]
    told = unknown_name("layer", "fc", layers)
    assert "expected one of 'features.0', 'features.1'" in told
    assert told.endswith("... (32 more) ..., " + ", ".join(map(repr, layers[-10:])))
    assert "more)" not in unknown_name("layer", "fc", layers[:40])
    assert unknown_name("layer", "clasifier.1", layers).endswith("did you mean 'classifier.1', 'classifier.0'?")
