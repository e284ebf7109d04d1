"""Decayed biases: which schedule a setting takes, and what is made of the network before and after."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate.bias_study import DecayedBiases, DecayStep, remove_biases
from captum_extract_aggregate.reproduction import bias_decay
from captum_extract_aggregate.reproduction.bias_decay import PUBLISHED, QUICK, pearson, schedule_of


def test_the_published_schedule_is_the_default_and_a_quick_one_says_so(setting):
    assert (PUBLISHED.steps, PUBLISHED.updates, PUBLISHED.batch, PUBLISHED.lr) == (200, 200, 64, 5e-6)
    assert schedule_of(setting) is QUICK
    full = replace(setting, sizes={"maps": 200, "stages": 40, "removal": 80})
    assert schedule_of(full) is PUBLISHED


def test_other_networks_bring_no_training_data():
    outcome = bias_decay.fig4(SimpleNamespace(model=SimpleNamespace(name="resnet18")))
    assert [finding.holds for finding in outcome.findings] == [None]


def test_pearson_is_numpy_s():
    a, b = torch.rand(2, 3, 1, 5, 5, dtype=torch.float64)
    wanted = [np.corrcoef(x.flatten(), y.flatten())[0, 1] for x, y in zip(a, b)]
    assert pearson(a, b).tolist() == pytest.approx(wanted)
    assert pearson(a, torch.ones_like(b)).isnan().all()


@pytest.fixture
def bare(setting, monkeypatch):
    """A setting whose biases decay at once."""
    made = DecayedBiases(remove_biases(setting.network), [DecayStep(1, 0.0, 0.5, 1.0, 1.0)])
    monkeypatch.setattr(bias_decay, "decayed", lambda *given: made)
    return setting


def test_a_network_without_biases_is_complete_at_every_layer(bare):
    outcome = bias_decay.fig4(bare)
    note, table = outcome.tables
    assert note.startswith("A quick variant, which is not the published decay")
    (finding,) = outcome.findings
    assert finding.verdict == "holds"
    sums = [float(cell) for cell in table.splitlines()[-1].strip("| ").split(" | ")[1:]]
    assert np.ptp(sums) <= 0.011


def test_signed_and_unsigned_maps_before_and_after(bare, monkeypatch):
    seen = []
    monkeypatch.setattr(
        bias_decay,
        "removal_contrast",
        lambda network, x, m, step: seen.append((network, m)) or SimpleNamespace(delta_minus=torch.rand(len(x))),
    )
    outcome = bias_decay.fig_s11(bare)
    layers = [cut.layer for cut in bare.shown_cuts]
    assert [finding.statement.rpartition(" (")[2] for finding in outcome.findings[1:]] == [f"{la})" for la in layers]
    assert len(seen) == 2 * len(layers)
    assert {network is bare.network for network, _ in seen} == {True, False}
    assert all(bool((m >= 0).all()) for _, m in seen)
    seen.clear()
    bias_decay.fig_s10(bare)
    network, top = seen[len(layers) - 1]
    x = next(bare.batches(bare.sizes["stages"], 8))[0]
    own = cea.ActivityAttribution(network, layers[-1]).attribute(x, target=bare.best(x))
    scaled = own / own.flatten(1).abs().amax(1).reshape(-1, 1, 1, 1)
    assert torch.nn.functional.interpolate(scaled, (96, 96), mode="bilinear").allclose(top, atol=1e-5)
