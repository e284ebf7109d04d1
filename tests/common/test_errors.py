"""Every error for a user's mistake is the package's own, and a ValueError or TypeError too."""

import ast
from pathlib import Path

import pytest

import captum_extract_aggregate as cea

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
