"""G20's figures of one picture: their sums add up."""

from dataclasses import replace

import pytest

from captum_extract_aggregate.evaluation import ModelPlan
from captum_extract_aggregate.reproduction import g20_pictures


def test_a_linear_classifier_s_attributions_add_up(setting, monkeypatch):
    drawn = {}
    monkeypatch.setattr(g20_pictures, "tiles", lambda path, rows, title: drawn.update(rows))
    monkeypatch.setattr(g20_pictures, "_UPDATES", 20)
    exact, speak = g20_pictures.fig1(setting).findings
    assert exact.holds
    assert speak.n > 1700
    assert {len(row) for row in drawn.values()} == {10}
    for tile in drawn["a 3"]:
        score = float(tile.title.split(": ")[1])
        assert float(tile.map.sum()) == pytest.approx(score, abs=0.06)


def test_every_cut_s_activities_and_biases_make_the_score(setting):
    outcome = g20_pictures.fig2(setting)
    (finding,) = outcome.findings
    assert finding.verdict == "holds"
    assert finding.n == len(setting.cuts)


def test_a_transformer_s_activities_and_biases_make_the_score_by_balanced_gradients(setting, tmp_path):
    vit = replace(setting, name="scene-vit", model=ModelPlan("scene-vit"), folder=tmp_path)
    (finding,) = g20_pictures.fig2(vit).findings
    assert finding.verdict == "holds"
    assert "with balanced gradients" in finding.statement
    assert finding.n > 1
