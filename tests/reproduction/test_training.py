"""Meta against plain maps over training, with two epochs that train nothing."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate._common.tensors import upsample
from captum_extract_aggregate.metrics import spearman
from captum_extract_aggregate.reproduction import training
from tests.reproduction.outcomes import cells


def test_other_networks_bring_no_training_data():
    outcome = training.over_training(SimpleNamespace(model=SimpleNamespace(name="resnet18")))
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
        for epoch in range(2):
            look(epoch)
            with torch.no_grad():
                model.fc.bias.add_(100)  # every class is found from now on, of ten one rightly

    monkeypatch.setattr(training, "load_scenes", lambda n, *given: (scenes, classes))
    monkeypatch.setattr(training, "train", train)
    outcome = training.over_training(setting)
    table = cells(outcome.tables[0])
    assert table["1"][0] == table["1"][4] == "0.100"
    n = setting.sizes["stages"]
    model, layer, x = built[0], setting.layers[2], scenes[:n]
    scores = model(x).detach()
    best, worst = scores.argmax(1), scores.argmin(1)
    method = cea.NormGrad(model, layer)
    plain = [upsample(method.attribute(x, target=t), (96, 96)) for t in (best, worst)]
    assert table["1"][2].startswith(f"{np.nanmean(spearman(*plain).numpy()):.2f}")
    assert [finding.n for finding in outcome.findings] == [n, 4]
    assert outcome.pictures[0].is_file()
    with pytest.raises(KeyError):
        table["2"]
