"""Pages from templates, whatever names hold: every value is escaped, and a missing one is an error."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def render(package: str, template: str, **values: Any) -> str:
    """Returns a page from a template in the folder `templates` of a package; all share the style sheet that lies
    here."""
    return _environment(package).get_template(template).render(**values)


@lru_cache(maxsize=4)
def _environment(package: str) -> Environment:
    loader = ChoiceLoader([PackageLoader(name) for name in dict.fromkeys((package, __name__.rpartition(".")[0]))])
    return Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
