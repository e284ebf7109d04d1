"""The pointing game on hand-made cases, against a literal reference, over data sets and processes."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import captum_extract_aggregate as cea
from captum_extract_aggregate.data import mask_from_boxes
from captum_extract_aggregate.metrics import PointingGame, RestrictedPointingGame, centre_map, pointing_game
from tests.reference import metrics as reference


def peak(row, column, size=(40, 60)):
    m = torch.zeros(1, *size)
    m[0, row, column] = 1
    return m


def dots(*places, size=(40, 60)):
    mask = torch.zeros(size, dtype=torch.bool)
    for row, column in places:
        mask[row, column] = True
    return mask


CASES = {
    "on the object": (peak(5, 5), dots((5, 5)), True),
    "within the tolerance": (peak(20, 20), dots((20, 34)), True),
    "15.0 exactly is a miss": (peak(20, 20), dots((20, 35)), False),
    "15.0 by Pythagoras is a miss": (peak(20, 20), dots((29, 32)), False),
    "just below": (peak(20, 20), dots((30, 31)), True),
    "an empty mask is a miss": (peak(5, 5), dots(), False),
    "an object at the border": (peak(0, 0), dots((0, 14)), True),
    "a maximum in the corner": (peak(39, 59), dots((39, 45)), True),
    "a mask of one pixel far off": (peak(0, 0), dots((39, 59)), False),
    "the first of two maxima": (peak(3, 3) + peak(30, 50), dots((30, 50)), False),
    "the first of two maxima, hit": (peak(3, 3) + peak(30, 50), dots((3, 3)), True),
    "a constant map points at the first pixel": (torch.ones(1, 40, 60), dots((2, 2)), True),
}


@pytest.mark.parametrize("case", CASES)
def test_hand_made(case):
    attribution, mask, expected = CASES[case]
    assert pointing_game(attribution[None], [mask]).tolist() == [expected]
    assert reference.pointing_hit(attribution[0].numpy(), mask.numpy()) == expected


@given(
    seed=st.integers(0, 200),
    tolerance=st.sampled_from([1, 2.5, 15, math.sqrt(8)]),
    density=st.sampled_from([0.003, 0.05]),
)
def test_literal_reference_and_monotone_transforms(seed, tolerance, density):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(3, 1, 20, 30, generator=generator)
    masks = torch.rand(3, 20, 30, generator=generator) < density
    got = pointing_game(maps, masks, tolerance)
    expected = [reference.pointing_hit(m[0].numpy(), mask.numpy(), tolerance) for m, mask in zip(maps, masks)]
    assert got.tolist() == expected
    assert torch.equal(pointing_game(maps.exp() * 3, masks, tolerance), got)
    order = [2, 0, 1]
    assert torch.equal(pointing_game(maps[order], masks[order], tolerance), got[order])


def test_maps_of_any_resolution_and_masks_of_any_size():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(1, 7, 7, generator=generator), torch.rand(1, 14, 10, generator=generator)]
    masks = [torch.rand(50, 70, generator=generator) > 0.99, torch.rand(33, 21, generator=generator) > 0.99]
    expected = [
        reference.pointing_hit(reference.upsample(m[0], mask.shape), mask.numpy(), 4) for m, mask in zip(maps, masks)
    ]
    assert pointing_game(maps, masks, 4).tolist() == expected
    wide = torch.rand(2, 3, 40, 60, generator=generator)  # channels are summed
    masks = [dots((1, 1)), dots((20, 30))]
    assert torch.equal(pointing_game(wide, masks), pointing_game(wide.sum(1), masks))


def test_accuracy_is_the_mean_over_classes():
    game = PointingGame(4, tolerance=2)
    maps = torch.stack([peak(5, 5)] * 6)
    masks = [dots((5, 5)), dots((5, 5)), dots((9, 9)), dots((5, 6)), dots(), dots((5, 5))]
    classes = [0, 0, 0, 1, 1, 3]
    game.update(maps[:2], masks[:2], classes[:2])
    game.update(maps[2:], masks[2:], torch.tensor(classes[2:]), difficult=[True, False, True, True])
    result = game.compute()
    hits = [True, True, False, True, False, True]
    assert float(result["accuracy"]) == pytest.approx(reference.pointing_accuracy(zip(classes, hits)))
    assert result["hits"].tolist() == [2, 1, 0, 1]
    assert result["misses"].tolist() == [1, 1, 0, 0]
    assert result["per_class"][2].isnan()
    assert float(result["difficult_accuracy"]) == pytest.approx((0 + 0 + 1) / 3)
    game.reset()
    assert game.compute()["accuracy"].isnan()


def test_restricted():
    game, restricted = PointingGame(3, tolerance=2), RestrictedPointingGame(3, tolerance=2)
    masks = [torch.stack([dots((5, 5)), dots((30, 30))]), torch.stack([dots((5, 5))])]
    of_class = {0: peak(5, 5), 1: peak(30, 30)}
    restricted.update([of_class[0], of_class[1]], masks, [[0, 1], [0]], difficult=[[False, True], [False]])
    assert restricted.compute()["hits"].tolist() == [1, 0, 0]
    assert restricted.compute()["misses"].tolist() == [1, 1, 0]
    for image, classes in enumerate([[0, 1], [0]]):
        game.update([of_class[c] for c in classes], masks[image], classes)
    assert float(game.compute()["accuracy"]) == 1
    assert float(restricted.compute()["accuracy"]) == 0.25


def test_the_centre_baseline():
    for size in ((40, 60), (7, 9), (224, 224)):
        m = centre_map(size)
        row, column = divmod(int(m.flatten().argmax()), size[1])
        assert (row, column) == (size[0] // 2, size[1] // 2)
    assert pointing_game(centre_map((40, 60)), [dots((20, 30))], 3).tolist() == [True]


def test_scenes_tell_methods_apart():
    model = cea.load_scene_model("vgg")
    game, restricted = PointingGame(10, tolerance=4), RestrictedPointingGame(10, tolerance=4)
    method = cea.LinearApproximation(model, "features.13")
    data = cea.DigitScenes(n=12, seed=7)
    for image, target in (data[i] for i in range(len(data))):
        classes = sorted(set(target["labels"].tolist()))
        boxes = [mask_from_boxes(target["boxes"][target["labels"] == c], (96, 96)) for c in classes]
        maps = method.attribute_per_target(image[None], classes)[0]
        game.update(maps, boxes, classes)
        best = model(image[None]).argmax(1)
        restricted.update(method.attribute(image[None], best), [boxes], [classes])
    assert game.compute()["accuracy"] > 0.9
    assert restricted.compute()["accuracy"] < game.compute()["accuracy"] - 0.2


def test_wrong_uses():
    good = torch.rand(2, 1, 5, 5)
    masks = torch.ones(2, 5, 5, dtype=torch.bool)
    for run, error, message in (
        (lambda: pointing_game(good, masks[:1]), ValueError, "2 maps for 1 masks"),
        (lambda: pointing_game(good, masks, 0), ValueError, "tolerance is 0"),
        (lambda: pointing_game(good, masks, math.inf), ValueError, "tolerance is inf"),
        (lambda: PointingGame(2).update(good, masks, torch.tensor([0.7, 1.0])), TypeError, "class indices"),
        (lambda: pointing_game(good, [m[0] for m in masks]), TypeError, "height x width"),
        (lambda: pointing_game(good * math.nan, masks), ValueError, "no maximum"),
        (lambda: pointing_game([1, 2], masks), TypeError, "a map is int"),
        (lambda: PointingGame(0), ValueError, "num_classes is 0"),
        (lambda: PointingGame(2).update(good, masks, [0, 2]), ValueError, "one index below 2"),
        (lambda: PointingGame(2).update(good, masks, [0]), ValueError, "for 2 pairs"),
        (lambda: PointingGame(2).update(good, masks, [0, 1], [True]), ValueError, "1 entries for 2 pairs"),
        (lambda: RestrictedPointingGame(2).update(good, [masks], [[0, 1]]), ValueError, "2 maps, 1 lists"),
    ):
        with pytest.raises(error, match=message):
            run()


@pytest.mark.slow
def test_two_processes_give_what_one_gives():
    script = Path(__file__).with_name("two_processes.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("the same") == 2


@pytest.mark.parametrize("size", [(333, 500), (224, 224), (100, 371), (375, 500)])
def test_equal_maxima_stay_equal_when_resized(size):
    m = torch.zeros(1, 7, 7)
    m[0, 1, 1] = m[0, 1, 5] = 0.1
    mask = torch.zeros(size, dtype=torch.bool)
    mask[:, : size[1] // 2] = True
    assert pointing_game(m[None], [mask], 1).tolist() == [True]
    assert pointing_game((m[None] * 100).int(), [mask], 1).tolist() == [True]
