"""Localisation: literal references, what is known by hand, laws, ties, and sizes."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from captum_extract_aggregate import metrics
from tests.reference import localisation as reference

WITH_MASKS = ["relevance_mass_accuracy", "relevance_rank_accuracy", "localisation_auc"]
SIZES = [(20,), (6, 7), (3, 4, 5)]


def drawn(n, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(n, *size, generator=generator, dtype=torch.float64)
    return maps, torch.rand(n, *size, generator=generator) < 0.3


@pytest.mark.parametrize("name", WITH_MASKS)
@pytest.mark.parametrize("size", SIZES)
def test_literal_references(name, size):
    maps, masks = drawn(5, size)
    maps[1] = maps[1].round()  # ties
    maps[2] = 0.1  # the same everywhere
    masks[3] = False
    got, slow = getattr(metrics, name), getattr(reference, name)
    expected = [slow(a.numpy(), m.numpy()) for a, m in zip(maps, masks)]
    assert math.isnan(expected[3])
    for given in (maps, maps[:, None], torch.stack([maps - 1, torch.ones_like(maps)], 1)):
        for masked in (masks, masks[:, None], masks.int()):
            np.testing.assert_allclose(got(given, masked).numpy(), expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(got(list(maps), list(masks)).numpy(), expected, rtol=1e-12, atol=1e-15)
    assert got(maps, masks).dtype == torch.float64
    for scale in (1e-9, 1e6):  # beside others that keep theirs
        scaled = maps.clone()
        scaled[0] *= scale
        np.testing.assert_allclose(got(scaled, masks).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("name", WITH_MASKS)
def test_perfect_opposite_and_chance(name):
    score = getattr(metrics, name)
    _, masks = drawn(4, (9, 9))
    inside = masks.double()
    assert score(inside, masks).tolist() == [1] * 4
    assert score(1 - inside, masks).tolist() == [0] * 4
    chance = torch.full((4,), 0.5, dtype=torch.float64) if name == "localisation_auc" else inside.mean((1, 2))
    torch.testing.assert_close(score(torch.full_like(inside, 3.3), masks), chance)
    noise = torch.rand(400, 9, 9, generator=torch.Generator().manual_seed(1))
    assert score(noise, masks[:1].expand(400, 9, 9)).mean().item() == pytest.approx(chance[0].item(), abs=0.02)
    flipped = score(masks.flip(2).double() + inside, masks)
    torch.testing.assert_close(score((masks.flip(2).double() + inside).flip(1), masks.flip(1)), flipped)  # ties too


def test_by_hand():
    mask = torch.tensor([[[True, False], [False, True]]])
    assert metrics.relevance_mass_accuracy(torch.tensor([[[2.0, -5.0], [6.0, -1.0]]]), mask).item() == 0.25
    assert metrics.relevance_rank_accuracy(torch.tensor([[[2.0, -5.0], [6.0, -1.0]]]), mask).item() == 0.5
    assert metrics.relevance_rank_accuracy(torch.tensor([[[5.0, 1.0], [0.0, 1.0]]]), mask).item() == 0.75  # a draw
    assert metrics.localisation_auc(torch.tensor([[[5.0, 1.0], [0.0, 1.0]]]), mask).item() == 0.875
    for nothing in (torch.zeros(1, 2, 2), -torch.ones(1, 2, 2)):
        assert metrics.relevance_mass_accuracy(nothing, mask).isnan().all()
    assert metrics.localisation_auc(torch.rand(1, 2, 2), torch.ones(1, 2, 2)).isnan().all()


def test_auc_is_scikit_learns():
    maps, masks = drawn(3, (8, 8))
    maps = (maps * 2).round()
    expected = [roc_auc_score(m.flatten(), a.flatten()) for a, m in zip(maps, masks)]
    np.testing.assert_allclose(metrics.localisation_auc(maps, masks).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("name", WITH_MASKS)
def test_maps_of_layers_are_brought_to_the_masks(name):
    low, masks = torch.rand(2, 1, 4, 4, dtype=torch.float64), torch.rand(2, 20, 16) > 0.6
    large = torch.nn.functional.interpolate(low, (20, 16), mode="bilinear")
    score = getattr(metrics, name)
    torch.testing.assert_close(score(low, masks), score(large, masks))
    torch.testing.assert_close(score([low[0], low[1]], [masks[0], masks[1]]), score(large, masks))
    other = [masks[0], masks[1, :12]]
    torch.testing.assert_close(score(list(low), other)[1:], score(low[1:], other[1][None]))
    constant = torch.full((1, 1, 3, 3), 0.1).expand(1, 7, 3, 3)  # whose sum, resized, is the same but for rounding
    chance = score(torch.ones(1, 20, 16), masks[:1])
    torch.testing.assert_close(score(constant, masks[:1]), chance)


@pytest.mark.parametrize("name", WITH_MASKS)
def test_undefined_maps_leave_their_company_alone(name):
    maps, masks = drawn(3, (6, 6))
    expected = getattr(metrics, name)(maps, masks)
    maps[1, 2, 2] = math.inf
    found = getattr(metrics, name)(maps, masks)
    assert found.isnan().tolist() == [False, True, False]
    assert torch.equal(found[[0, 2]], expected[[0, 2]])
    for kind in (torch.float16, torch.bfloat16, torch.int32, torch.bool):
        assert getattr(metrics, name)((maps.nan_to_num(1, 1, 1) * 9).to(kind), masks).shape == (3,)


@pytest.mark.parametrize(("size", "n"), [((12,), 4), ((6, 9), 3), ((4, 4, 6), 2)])
def test_grid_pointing_game(size, n):
    maps, _ = drawn(4, size)
    cells = [0, 1, n ** len(size) - 1, n - 1]
    expected = [reference.grid_pointing_game(a.numpy(), cell, n) for a, cell in zip(maps, cells)]
    for given in (maps, maps[:, None]):
        found = metrics.grid_pointing_game(given, cells, n, size=size)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    scaled = maps * torch.tensor([1e-9, 1.0, 1e6, 1.0]).reshape(-1, *(1,) * len(size))
    torch.testing.assert_close(metrics.grid_pointing_game(scaled, torch.tensor(cells), n, size), found)
    of_all = [metrics.grid_pointing_game(maps, [c] * 4, n, size) for c in range(n ** len(size))]
    torch.testing.assert_close(torch.stack(of_all).sum(0), torch.ones(4, dtype=torch.float64))
    uniform = metrics.grid_pointing_game(torch.ones(4, *size), cells, n, size)
    torch.testing.assert_close(uniform, torch.full((4,), n ** -len(size), dtype=torch.float64))
    assert metrics.grid_pointing_game(-torch.ones(4, *size), cells, n, size).isnan().all()


def test_grids_of_low_resolution():
    low = torch.rand(2, 5, 7, 7, dtype=torch.float64)
    large = torch.nn.functional.interpolate(low.sum(1, keepdim=True), (12, 12), mode="bilinear")
    found = metrics.grid_pointing_game(low, [3, 0], 2, size=(12, 12))
    torch.testing.assert_close(found, metrics.grid_pointing_game(large, [3, 0], 2))
    masks = torch.zeros(2, 12, 12, dtype=torch.bool)
    masks[0, 6:, 6:] = masks[1, :6, :6] = True
    torch.testing.assert_close(found, metrics.relevance_mass_accuracy(low, masks))
    with pytest.raises(ValueError, match=r"n is 2, which does not divide the maps' size \(7, 7\); expected the grids"):
        metrics.grid_pointing_game(low, [3, 0], 2)


def test_wrong_uses():
    maps, masks = drawn(2, (6, 6))
    for run, error, message in (
        (lambda: metrics.localisation_auc(maps, masks[:1]), ValueError, "2 maps for 1 masks"),
        (lambda: metrics.localisation_auc(maps, masks[:, 0, 0]), TypeError, r"masks has shape \(2,\)"),
        (lambda: metrics.localisation_auc(maps[:, 0], masks), ValueError, r"maps has shape \(2, 6\) for 2 position"),
        (lambda: metrics.localisation_auc(maps[:, :1], masks), ValueError, "one row, or the maps of sequences"),
        (lambda: metrics.localisation_auc([[1.0]], masks[:1]), TypeError, "maps and masks hold a list"),
        (lambda: metrics.localisation_auc(maps * 1j, masks), TypeError, "complex"),
        (lambda: metrics.grid_pointing_game("a", [0]), TypeError, "maps is str"),
        (lambda: metrics.grid_pointing_game(maps, [0, 9]), ValueError, "one index below 9 for each"),
        (lambda: metrics.grid_pointing_game(maps, [0.0, 1.0]), TypeError, "cells holds torch.float32"),
        (lambda: metrics.grid_pointing_game(maps, [0, 1], n=True), ValueError, "n is True"),
    ):
        with pytest.raises(error, match=message):
            run()
