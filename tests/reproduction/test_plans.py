"""The methods of the papers' tables, as plans."""

from types import SimpleNamespace

import pytest

from captum_extract_aggregate.attr.by_name import find_method
from captum_extract_aggregate.reproduction.k20 import TABLE1, TABLE3
from captum_extract_aggregate.reproduction.plans import R20, combined, pointing, positive, propagated
from captum_extract_aggregate.reproduction.r20 import TABLE3 as R20_TABLE3


def test_every_method_of_the_tables_is_there():
    assert set(R20) == set(R20_TABLE3)
    assert [plan.label for plan in positive("layer4")] == list(TABLE1)
    assert [plan.label for plan in propagated()] == list(TABLE3)
    assert all(name == plan.label for name, plan in R20.items())
    for plan in [*R20.values(), *positive("layer4"), *propagated()]:
        assert find_method(plan.method)


def test_methods_of_k20_are_at_the_last_layer_or_the_input_or_join_all():
    for plan in positive("layer4"):
        assert plan.layers == (() if find_method(plan.method).joins_layers else ("layer4",))
    assert {plan.layers for plan in propagated()} == {("input",)}


def test_layers_are_combined_by_every_scheme_and_mode():
    setting = SimpleNamespace(spread_weights={"l1": 0.12345678, "l2": 0.9}, probe_weights={"l1": 0.3, "l2": 0.7})
    plans = combined(setting)
    assert [plan.label for plan in plans] == list(R20)
    for plan in plans:
        assert plan.arguments == R20[plan.label].arguments
        assert {c.label: c.weights for c in plan.combine if c.mode == "sum"} == {
            "uniform, sum": "uniform",
            "linear, sum": "linear",
            "feature spread, sum": (0.123457, 0.9),
            "accuracy, sum": (0.3, 0.7),
        }
        assert len(plan.combine) == 8


def test_both_games_have_the_setting_s_tolerance():
    games = pointing(SimpleNamespace(tolerance=4))
    assert [game.measure for game in games] == ["pointing_game", "restricted_pointing_game"]
    assert [game.arguments for game in games] == [{"tolerance": pytest.approx(4)}] * 2
