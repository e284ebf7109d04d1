"""Meta against plain maps over training, with three epochs that train nothing."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

import captum_extract_aggregate as cea
from captum_extract_aggregate._common.tensors import upsample
from captum_extract_aggregate.metrics import spearman
from captum_extract_aggregate.reproduction import training
from tests.reproduction.outcomes import cells


@pytest.mark.parametrize("run", [training.fig10, training.fig11])
def test_other_networks_bring_no_training_data(run):
    outcome = run(SimpleNamespace(model=SimpleNamespace(name="resnet18")))
    assert [finding.holds for finding in outcome.findings] == [None]


def test_what_is_looked_at_after_each_epoch(setting, monkeypatch):
    """Correlations as by public calls on the network as it then is, which is trained on."""
    scenes = torch.stack([cea.DigitScenes(4, seed=1)[i][0] for i in range(4)])
    classes = torch.zeros(4, 10)
    classes[:, 3] = 1
    built = []

    def train(model, images, labels, epochs, seed, look, show):
        model.eval()
        built.append(model)
        assert torch.equal(images, scenes)
        for epoch in range(3):
            look(epoch)
            with torch.no_grad():
                model.fc.bias.add_(100)  # every class is found from now on, of ten one rightly

    monkeypatch.setattr(training, "load_scenes", lambda n, *given: (scenes, classes))
    monkeypatch.setattr(training, "train", train)
    outcome = training.fig10(setting)
    table = cells(outcome.tables[0])
    assert table["1"][:2] == ["0.100", "0.100"]
    model, layer, x = built[0], setting.layers[2], scenes
    best = model(x).detach().argmax(1)
    method = cea.SelectiveNormGrad(model, layer)
    plain = upsample(method.attribute(x, target=best), (96, 96))
    step = cea.MetaSaliency(method, lr=0.002, loss_func="binary_cross_entropy")
    meta = upsample(step.attribute(x, target=best), (96, 96))
    found = spearman(plain, meta).numpy()
    assert table["2"][-1].startswith(f"{np.nanmean(found):.2f}")
    n = setting.sizes["stages"]
    _, selective = outcome.findings
    assert selective.p == pytest.approx(mannwhitneyu(found, found[:n]).pvalue, abs=1e-3)
    assert selective.n == n + 4
    settled = training.fig11(setting)
    assert list(cells(settled.tables[0])) == ["epoch", "---", "0", "1"]
    assert settled.findings[0].n == 4
    assert len(built) == 1  # both figures look at one training
    assert all(path.is_file() for path in (*outcome.pictures, *settled.pictures))
