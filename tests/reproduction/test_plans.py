"""The methods of the papers' tables, as plans."""

from types import SimpleNamespace

import pytest
import torch

from captum_extract_aggregate.attr.by_name import find_method
from captum_extract_aggregate.metrics import pointing_game
from captum_extract_aggregate.reproduction.k20 import TABLE1, TABLE3
from captum_extract_aggregate.reproduction.plans import (
    R20,
    at_the_end,
    combined,
    pointing,
    pointing_inside,
    positive,
    propagated,
)
from captum_extract_aggregate.reproduction.r20 import TABLE3 as R20_TABLE3

FIVE = SimpleNamespace(layers=("b1", "b2", "b3", "b4", "b5"), rectifies=True)  # as VGG-16's
GATED = SimpleNamespace(rectifies=False)  # as a ViT


def test_every_method_of_the_tables_is_there():
    assert set(R20) == set(R20_TABLE3)
    assert [plan.label for plan in positive(FIVE)] == list(TABLE1)
    assert [plan.label for plan in at_the_end(FIVE)] == [name for name in TABLE1 if " B" not in name]
    assert [plan.label for plan in propagated(FIVE)] == list(TABLE3)
    assert all(name == plan.label for name, plan in R20.items())
    for plan in [*R20.values(), *positive(FIVE), *propagated(FIVE)]:
        assert find_method(plan.method)


def test_methods_of_k20_are_at_the_last_layer_or_the_input_or_join_all():
    for plan in at_the_end(FIVE):
        assert plan.layers == (() if find_method(plan.method).joins_layers else ("b5",))
    blocks = {plan.label: plan.layers for plan in positive(FIVE) if " B" in plan.label}
    assert all(layers == (f"b{label[-1]}",) for label, layers in blocks.items())
    assert len(blocks) == 12
    assert {plan.layers for plan in propagated(FIVE)} == {("input",)}


def test_where_nothing_is_rectified_gradients_are_balanced():
    plans = propagated(GATED)
    balanced = ["balanced gradients", "balanced gradients x input"]
    assert [plan.label for plan in plans] == ["gradients", *balanced, "LRP-gamma-inf", "LRP-0"]
    assert {plan.layers for plan in plans} == {("input",)}


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


def test_k20_s_own_games_are_won_inside_the_mask_alone():
    games = pointing_inside()
    assert [game.measure for game in games] == ["pointing_game", "restricted_pointing_game"]
    maps, masks = torch.zeros(2, 1, 9, 9), torch.zeros(2, 9, 9, dtype=torch.bool)
    maps[:, :, 4, 4] = 1
    masks[0, 4, 4] = masks[1, 4, 5] = True  # on it, and a pixel beside
    assert pointing_game(maps, masks, **games[0].arguments).tolist() == [True, False]
