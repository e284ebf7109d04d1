"""Grids: what lies where, which pictures are chosen, and the pointing game on them."""

import pytest
import torch
from torch import nn

from captum_extract_aggregate import metrics
from captum_extract_aggregate.data import GridImages
from captum_extract_aggregate.evaluation import summarize
from captum_extract_aggregate.registry import register_dataset, unregister_dataset
from tests.evaluation.plans import evaluated


def pictures(classes=10, each=3, size=(4, 6)):
    """Of class c, all numbers are c plus a tenth for each picture."""
    return [(torch.full((3, *size), c + i / 10), c) for c in range(classes) for i in range(each)]


def test_cells_hold_their_pictures_and_classes_differ():
    data = pictures()
    grids = GridImages(data, n=3, count=5)
    assert len(grids) == 5
    for cells, (grid, pairs) in zip(grids.cells, grids):
        assert grid.shape == (3, 12, 18)
        assert len(set(pairs.classes)) == 9
        assert (pairs.masks.sum(0) == 1).all()  # each pixel lies in one cell
        for cell, index in enumerate(cells):
            assert pairs.classes[cell] == data[index][1]
            assert torch.equal(grid[:, pairs.masks[cell]].reshape(3, 4, 6), data[index][0])
        marks = torch.stack([mask.float() for mask in pairs.masks])
        assert metrics.grid_pointing_game(marks, list(range(9)), 3).tolist() == [1] * 9
    assert grids.cells == GridImages(data, n=3, count=5).cells != GridImages(data, n=3, count=5, seed=1).cells


def test_only_what_the_network_knows_surely_is_taken():
    def model(x):  # classifies right, the second picture of each class unsurely, and the third not
        level = x.mean((1, 2, 3))
        scores = torch.nn.functional.one_hot(level.floor().long(), 10).float()
        tenth = (level - level.floor()) * 10
        return scores * torch.tensor([20.0, 2.0, -5.0])[tenth.round().long()][:, None]

    data = pictures()
    used = {i for cells in GridImages(data, model, n=2, count=40, batch_size=7).cells for i in cells}
    assert used == {3 * c for c in range(10)}
    used = {i for cells in GridImages(data, model, n=2, count=80, confidence=0.1).cells for i in cells}
    assert used == {3 * c + i for c in range(10) for i in (0, 1)}


def test_a_network_of_one_size_judges_enlarged_pictures():
    def model(x):
        assert x.shape[2:] == (8, 12)  # a grid's size
        return torch.nn.functional.one_hot(x.mean((1, 2, 3)).floor().long(), 10) * 20.0

    used = {i for cells in GridImages(pictures(), model, n=2, count=200, enlarge=True).cells for i in cells}
    assert len(used) == 30
    with pytest.raises(AssertionError):
        GridImages(pictures(), model, n=2)


def test_in_a_plan(tmp_path):
    import captum_extract_aggregate as cea

    model = cea.load_scene_model("resnet")
    scenes = [(x, int(t["labels"][0])) for x, t in cea.DigitScenes(60) if len(set(t["labels"].tolist())) == 1]
    grids = GridImages(scenes, model, n=2, count=2, confidence=0.3)
    register_dataset("grids")(lambda: grids)
    try:
        results = evaluated(tmp_path / "r", data={"kind": "grids"}, measures=[{"measure": "grid_pointing_game"}])
        rows = results.rows("grid_pointing_game", "accuracy")
        assert len(rows) == 2 * 4
        grid, pairs = grids[0]
        maps = cea.NormGrad(model, "layer3").attribute(grid.expand(4, -1, -1, -1), target=torch.tensor(pairs.classes))
        expected = metrics.grid_pointing_game(maps, list(range(4)), 2, size=grid.shape[1:])
        found = {row.target: row.value for row in rows if row.image == 0}
        assert [found[c] for c in pairs.classes] == pytest.approx(expected.tolist(), abs=1e-3)
        (line,) = [line for line in summarize(results) if line.detail == "above_chance"]
        assert line.null == 0
    finally:
        unregister_dataset("grids")


def test_wrong_uses():
    data = pictures()
    mixed = [(torch.zeros(3, 4 + c, 4), c) for c in range(4)]
    for run, error, message in (
        (lambda: GridImages(data, n=4), ValueError, "n is 4, and pictures of 10 classes are left; expected 16"),
        (lambda: GridImages(data, n=0), ValueError, "n is 0"),
        (lambda: GridImages(data, count=True), ValueError, "count is True"),
        (lambda: GridImages(data, confidence=2), ValueError, "confidence is 2"),
        (lambda: GridImages([("a", 1)] * 9), TypeError, "no tensors"),
        (lambda: GridImages(mixed, n=2)[0], ValueError, "expected one size"),
    ):
        with pytest.raises(error, match=message):
            run()


def test_a_network_in_train_mode_is_refused_and_stays_as_it_is():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = net[1].running_mean.clone()
    with pytest.raises(ValueError, match="in train mode"):
        GridImages([(torch.randn(3, 8, 8), i % 4) for i in range(8)], n=2, model=net)
    assert torch.equal(net[1].running_mean, before)
