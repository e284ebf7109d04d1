"""DiFull and DiPart of a plan's methods: which data has cells, and what is said before any work (see also
test_grid_data.py)."""

import pytest
import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate.data import GridImages
from captum_extract_aggregate.evaluation.explained import Column, ImageBatch
from captum_extract_aggregate.evaluation.explainer import Explainer
from captum_extract_aggregate.evaluation.images import Sample
from captum_extract_aggregate.evaluation.measures_of_grids import cells_a_side, difull, dipart
from tests.evaluation.plans import NET, evaluated, tiny_net

PICTURES = [(torch.randn(3, 8, 12, generator=torch.Generator().manual_seed(c)), c) for c in range(9)]


def batch_of(grids, model):
    samples = [Sample(i, f"grid {i}", x, pairs.classes[0], pairs) for i, (x, pairs) in enumerate(grids)]
    x = torch.stack([sample.x for sample in samples])
    return ImageBatch(model, x, samples, model(x).detach(), torch.zeros(len(x), 2, dtype=torch.long), 0)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_cells_a_side(n):
    grids = GridImages(PICTURES, n=n, count=2)
    batch = batch_of(grids, tiny_net())
    assert cells_a_side(batch) == n
    batch.samples[1].pairs.masks[0, 0, 0] ^= True
    with pytest.raises(ValueError, match="are no n x n cells"):
        cells_a_side(batch)


@pytest.mark.parametrize(("measure", "expected"), [(difull, 1.0), (dipart, 1.0)])
def test_a_map_of_the_network_that_is_explained(measure, expected):
    model = tiny_net().eval()
    batch = batch_of(GridImages(PICTURES, n=2, count=2), model)
    asked = []

    def columns_of(network, x, targets):
        asked.append((network.kept.cell, targets[:, 0].tolist()))
        maps = cea.NormGrad(network, "conv2").attribute(x, target=targets[:, 0])
        return [Column("a", "conv2", [maps], "nearest"), Column("not asked for", "conv2", [maps])]

    column = Column("a", "conv2", [torch.zeros(2, 1, 8, 12)])
    found = list(measure(batch, [column], Explainer(batch, columns_of)))
    classes = [sample.pairs.classes for sample in batch.samples]
    assert asked == [(cell, [own[cell] for own in classes]) for cell in range(4)]
    assert [(i, target) for _, (i, target, detail, _) in found if detail == "accuracy"] == [
        (i, classes[i][cell]) for cell in range(4) for i in range(2)
    ]
    for own, (_, _, detail, value) in found:
        assert own is column
        assert value == pytest.approx(expected - (0.25 if detail == "above_chance" else 0))


def test_an_unknown_layer_is_said_before_any_work(tmp_path):
    measures = [{"measure": "dipart", "arguments": {"features": "conv3"}}]
    with pytest.raises(ValueError, match=r"layer is 'conv3'.*did you mean 'conv"):
        evaluated(tmp_path / "r", model=NET | {"num_classes": 0}, layers=["conv2"], measures=measures, data=GRID)


GRID = {
    "kind": "grid",
    "arguments": {"of": {"kind": "custom", "dataset": f"{__file__}:pictures"}, "cells": 1, "confidence": 0},
}


def pictures():
    net = tiny_net().eval()
    return [(x, int(net(x[None]).argmax())) for x, _ in PICTURES]
