"""The public names and their signatures are those of a committed list, which changes on purpose only.

`python -m tests.test_public_surface` writes the list anew.
"""

import difflib
import importlib
import inspect
from pathlib import Path

import captum_extract_aggregate as cea

LIST = Path(__file__).with_name("public_surface.txt")
MODULES = [
    "",
    ".attr",
    ".scores",
    ".metrics",
    ".data",
    ".bias_study",
    ".rules",
    ".registry",
    ".visualization",
    ".evaluation",
]


def surface():
    """A line for each public name and each public method of a class, with what it takes (but for annotations)."""
    lines = []
    for suffix in MODULES:
        module = importlib.import_module("captum_extract_aggregate" + suffix)
        for name in module.__all__:
            thing = getattr(module, name)
            if suffix and vars(cea).get(name) is thing:
                lines.append(f"{module.__name__}.{name}: captum_extract_aggregate.{name}")
            else:
                lines += described(f"{module.__name__}.{name}", thing)
    return lines


def described(name, thing):
    if inspect.ismodule(thing):
        return [f"{name}: module"]
    if not callable(thing):
        return [f"{name}: {type(thing).__name__}"]
    lines = [f"{name}{taken(thing)}"]
    if inspect.isclass(thing):
        for method in sorted(m for m in dir(thing) if not m.startswith("_")):
            found = inspect.getattr_static(thing, method)
            if isinstance(found, (staticmethod, classmethod)):
                found = found.__func__
            if inspect.isfunction(found) and found.__module__.startswith("captum_extract_aggregate"):
                lines.append(f"{name}.{method}{taken(found)}")
            elif isinstance(found, property):
                lines.append(f"{name}.{method}: property")
    return lines


def taken(thing):
    """The signature without annotations, which Python versions write differently."""
    try:
        signature = inspect.signature(thing)
    except ValueError:
        return "(...)"
    plain = [p.replace(annotation=p.empty, default=shown(p.default)) for p in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))


class shown:  # noqa: N801
    """A default value, written the same in all versions and places."""

    def __new__(cls, value):
        return value if value is inspect.Parameter.empty else object.__new__(cls)

    def __init__(self, value):
        self.text = getattr(value, "__name__", None) or repr(value)
        if " at 0x" in self.text:
            self.text = type(value).__name__

    def __repr__(self):
        return self.text


def test_the_public_surface_is_the_listed_one():
    found, listed = surface(), LIST.read_text(encoding="utf-8").splitlines()
    difference = difflib.unified_diff(listed, found, "listed", "found", lineterm="", n=0)
    assert found == listed, "\n".join(["what users see has changed (see this file's text):", *difference])


if __name__ == "__main__":
    LIST.write_text("\n".join(surface()) + "\n", encoding="utf-8")
