"""Khakzar, Baselizadeh, Navab (ICML WHI 2020): the figures that show maps."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

from captum_extract_aggregate.evaluation import MethodPlan
from captum_extract_aggregate.metrics.randomization import randomization_stages, randomization_states, randomized
from captum_extract_aggregate.reproduction.charts import Tile, picture_grid, tiles
from captum_extract_aggregate.reproduction.findings import Outcome
from captum_extract_aggregate.reproduction.plans import AT_LAYERS, at_the_end, block, propagated
from captum_extract_aggregate.reproduction.randomization import READINGS
from captum_extract_aggregate.reproduction.setting import Setting


def _at_layers(setting: Setting, name: str) -> list[MethodPlan]:
    """Returns a method at every layer, the last one first."""
    return [MethodPlan(AT_LAYERS[name], name + block(setting, layer), (layer,)) for layer in reversed(setting.layers)]


def fig1(setting: Setting) -> Outcome:
    """Pictures: maps of the best and of the worst class, by aggregation."""
    return Outcome(pictures=[picture_grid(setting, at_the_end(setting), "k20-fig1", worst=True)])


def fig2(setting: Setting) -> Outcome:
    """Pictures: GradCAM_Pos at every layer, for the best and the worst class."""
    return Outcome(pictures=[picture_grid(setting, _at_layers(setting, "GradCAM_Pos"), "k20-fig2", worst=True)])


def fig3(setting: Setting) -> Outcome:
    """Pictures: GradCAM++ at every layer, for the best and the worst class."""
    return Outcome(pictures=[picture_grid(setting, _at_layers(setting, "GradCAM++"), "k20-fig3", worst=True)])


def fig6(setting: Setting) -> Outcome:
    """Pictures: maps of the best and of the worst class, by propagation."""
    return Outcome(pictures=[picture_grid(setting, propagated(setting), "k20-fig6", worst=True)])


def fig5(setting: Setting) -> Outcome:
    """Pictures: GradCAM++ and GradCAM_Pos by the original, the half and the fully randomised network."""
    shown = list(dict.fromkeys((setting.layers[-1], setting.layers[len(setting.layers) // 2], setting.layers[0])))
    plans = [
        MethodPlan(AT_LAYERS[name], name + block(setting, layer), (layer,))
        for name in ("GradCAM++", "GradCAM_Pos")
        for layer in shown
    ]
    return Outcome(pictures=[_randomised(setting, plans, init, reading) for init, reading in READINGS.items()])


def _randomised(setting: Setting, plans: list[MethodPlan], init: str, reading: str) -> Path:
    x = setting.first.x[None]
    target, picture = setting.best(x), setting.picture(setting.first.x)
    methods = {plan.label: setting.method(plan) for plan in plans}
    stages = randomization_stages(setting.network, setting.stages, (x,), ())
    chosen = {(len(stages) - 1) // 2: "half", len(stages) - 1: "all blocks random"}
    rows = {"original": [Tile(name, picture, of(x, target)[0]) for name, of in methods.items()]}
    drawn = randomization_states("cascading", 1, len(stages))
    with contextlib.closing(randomized(setting.network, stages, drawn, init, 0)) as states:
        for state in states:
            if state.stage in chosen:
                maps = [torch.nan_to_num(of(x, target)[0]) for of in methods.values()]
                rows[chosen[state.stage]] = [Tile("", picture, map_) for map_ in maps]
    path = setting.folder / f"k20-fig5-{init}-{setting.name}.png"
    tiles(path, rows, f"{setting.name}: {reading}")
    return path
