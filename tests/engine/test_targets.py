"""Targets: every form that Captum accepts, with its result, and none that it would misread."""

import numpy as np
import pytest
import torch
from captum._utils.common import _select_targets

from captum_extract_aggregate._engine.targets import per_target, select_scores

TWO = torch.arange(12.0).view(3, 4)
THREE = torch.arange(24.0).view(3, 2, 4)


@pytest.mark.parametrize(
    ("output", "target"),
    [
        (TWO, 2),
        (TWO, -1),
        (TWO, (3,)),
        (TWO, torch.tensor(2)),
        (TWO, torch.tensor([2])),
        (TWO, torch.tensor([0, 3, 1])),
        (TWO, torch.tensor([0, 3, 1], dtype=torch.int32)),
        (TWO, [0, 3, 1]),
        (TWO, [np.int64(0), np.int64(3), np.int64(1)]),
        (TWO, [(0,), (3,), (-1,)]),
        (TWO[:1], [3]),
        (THREE, (1, 3)),
        (THREE, (-1, 0)),
        (THREE, [(0, 1), (1, 3), (1, -1)]),
        (THREE[:, :, :1], 1),
        (TWO[:, 0], None),
        (TWO[:, :1], None),
    ],
)
def test_captum_s_forms(output, target):
    plain = target.long() if isinstance(target, torch.Tensor) else target
    plain = list(map(int, plain)) if isinstance(plain, list) and not isinstance(plain[0], tuple) else plain
    expected = _select_targets(output, plain)
    assert torch.equal(select_scores(output, target), expected.flatten())


@pytest.mark.parametrize("target", [np.int64(2), np.array(2), np.array([2, 2, 2]), torch.tensor([[2]])])
def test_forms_that_captum_refuses_but_are_clear(target):
    assert torch.equal(select_scores(TWO, target), TWO[:, 2])


@pytest.mark.parametrize(
    ("output", "target", "error"),
    [
        (TWO, None, ValueError),
        (TWO, 4, ValueError),
        (TWO, -5, ValueError),
        (TWO, [0, -1, 1], ValueError),
        (TWO, [0, 1], ValueError),
        (TWO, (1, 1), ValueError),
        (TWO, True, TypeError),
        (TWO, [True, False, True], TypeError),
        (TWO, 1.0, TypeError),
        (TWO, {0}, TypeError),
        (TWO, torch.tensor([0.0, 1, 2]), TypeError),
        (TWO, torch.eye(4)[:3].long(), ValueError),
        (THREE, 1, ValueError),
        (THREE, [0, 1, 0], ValueError),
        (THREE, (1, 4), ValueError),
        (TWO[:, 0], 0, ValueError),
        ((TWO,), 0, TypeError),
    ],
)
def test_mistakes(output, target, error):
    with pytest.raises(error, match="expected"):
        select_scores(output, target)


@pytest.mark.parametrize(
    "targets",
    [
        [[0], [1, 2], [0]],
        [["a"], ["b"], ["c"]],
        [[], [], []],
        torch.zeros(3, 0),
        torch.zeros(0),
        torch.zeros(2, 2),
        [],
        3,
    ],
)
def test_mistaken_targets_per_example(targets):
    with pytest.raises((ValueError, TypeError), match="expected"):
        per_target(targets, 3)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([0, 1], [0, 1]),
        ((0, 1), [0, 1]),
        (torch.tensor([0, 1]), [0, 1]),
        ([(0, 1), (1, 1)], [(0, 1), (1, 1)]),
        (torch.tensor([[0, 1], [2, 3], [0, 0]]), [[0, 2, 0], [1, 3, 0]]),
        (np.array([[0, 1], [2, 3], [0, 0]]), [[0, 2, 0], [1, 3, 0]]),
        ([[0, 1], [2, 3], [0, 0]], [[0, 2, 0], [1, 3, 0]]),
    ],
)
def test_targets_per_example(targets, expected):
    got = per_target(targets, 3)
    assert [t.tolist() if isinstance(t, torch.Tensor) else t for t in got] == expected


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list])
def test_targets_of_a_batch_of_one(kind):
    for rows, expected in (([[1, 4, 0]], [1, 4, 0]), ([[3]], [3])):
        got = per_target(kind(rows), 1)
        assert got == expected
        assert all(type(target) is int for target in got)
    with pytest.raises(ValueError, match=r"shape \(2, 1\); expected 1 x T"):
        per_target(kind([[1], [2]]), 1)
    assert all(type(target) is int for target in per_target(kind([1, 4]), 3))  # for all examples
    (single,) = per_target(kind([[1], [2]]), 2)
    assert single.tolist() == [1, 2]
    for examples in (2, 3):
        with pytest.raises(ValueError, match="expected"):
            per_target(kind([[1, 4, 0]]), examples)
