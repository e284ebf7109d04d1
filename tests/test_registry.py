"""One place for all that a user adds: each kind can be registered, taken away and listed."""

import pytest

from captum_extract_aggregate import registry

KINDS = ["aggregate", "dataset", "layer", "measure", "method", "model", "operation"]


def test_each_kind_can_be_added_taken_away_and_listed():
    functions = {f"{verb}_{kind}" for verb in ("register", "unregister") for kind in KINDS}
    assert set(registry.__all__) == functions | {f"list_{kind}s" for kind in KINDS} | {"Factor", "Formula", "Summand"}
    assert all(callable(getattr(registry, name)) for name in registry.__all__)


@pytest.mark.parametrize("kind", KINDS)
def test_what_there_is_includes_the_package_s_own(kind):
    assert len(getattr(registry, f"list_{kind}s")()) > 1


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'register_nothing'"):
        registry.register_nothing  # noqa: B018
