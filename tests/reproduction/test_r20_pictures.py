"""R20's figures of maps: which methods and classes they show, and the captions."""

from dataclasses import replace

import pytest
import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate.data import load_scene_captioner
from captum_extract_aggregate.evaluation import ModelPlan
from captum_extract_aggregate.reproduction import EXPERIMENTS, carry_out, r20_pictures
from captum_extract_aggregate.reproduction.r20_pictures import fig12, fig14
from tests.reproduction.outcomes import check_outcome, names


@pytest.mark.parametrize("name", names(r20_pictures))
def test_small_experiments_give_tables_findings_or_pictures(name, setting):
    check_outcome(carry_out(name, setting))


@pytest.fixture
def shown(monkeypatch):
    """What would be drawn."""
    found = {}
    monkeypatch.setattr(r20_pictures, "tiles", lambda path, rows, title: found.update(rows))
    return found


def test_positive_and_negative_meta_saliency_are_descent_and_ascent(setting, shown):
    fig12(setting)
    (row,) = shown.values()
    assert [tile.title for tile in row] == ["negative", "none", "positive"]
    x = setting.first.x[None]
    plain = cea.SelectiveNormGrad(setting.network, setting.layers[-2])
    for tile, ascent in ((row[0], True), (row[2], False)):
        step = cea.MetaSaliency(plain, lr=0.002, ascent=ascent, loss_func=setting.loss)
        wanted = step.attribute(x, target=setting.best(x))
        assert torch.allclose(tile.map, wanted[0], rtol=1e-4, atol=1e-7)
    assert torch.equal(row[1].map, plain.attribute(x, target=setting.best(x))[0])


def test_a_caption_s_maps_are_those_of_its_log_probability(setting, shown):
    outcome = fig14(setting)
    check = outcome.findings[0]
    assert check.n == setting.sizes["stages"]
    captioner, x = load_scene_captioner(), setting.first.x[None]
    caption = captioner.caption(x[0])
    (row,) = [row for name, row in shown.items() if name == caption]
    assert [tile.title for tile in row] == ["layer3", "layer4", "combined"]
    method = cea.SelectiveNormGrad(lambda x: captioner.log_probability(x, [caption] * len(x)), captioner.encoder.layer4)
    assert torch.allclose(row[1].map, method.attribute(x)[0], rtol=1e-5)
    assert row[2].map.shape == (1, 96, 96)


def test_captions_are_of_scenes_alone(setting):
    assert fig14(replace(setting, model=ModelPlan("scene-vgg"))).findings[0].holds is None
    assert "r20-fig14" in EXPERIMENTS
