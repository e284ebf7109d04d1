"""Which classes compete, and which maps that takes."""

import numpy as np
import pytest
import torch

from captum_extract_aggregate.attr.competing_classes import Choice, checked_classes, rivals_by_score
from tests.reference.competition import rivals_of

INF = float("inf")


@pytest.mark.parametrize("wanted", [1, 2, 4, 9])
def test_the_most_probable_classes_and_the_least_probable_one(wanted):
    scores = torch.randn(6, 7, generator=torch.Generator().manual_seed(0)).round()  # with equal ones
    scores[0, :3] = -INF  # ruled out
    own = [3, 0, 1, 2, 6, 5]
    got = rivals_by_score(scores, own, wanted)
    assert got == [sorted(rivals_of(z.tolist(), t, wanted)) for z, t in zip(scores, own)]
    assert all(t not in row for row, t in zip(got, own))


def test_order_of_the_rivals_by_hand():
    assert rivals_by_score(torch.tensor([[5.0, 1.0, 4.0, 3.0, 2.0]]), [0], 3) == [[1, 2, 3]]
    assert rivals_by_score(torch.tensor([[5.0, 1.0, 4.0, 3.0, 2.0]]), [1], 2) == [[0, 4]]
    with pytest.raises(ValueError, match="no class but the target, 1, has a finite score; expected at least one"):
        rivals_by_score(torch.tensor([[-INF, 1.0, torch.nan]]), [1], 2)


def classes_of(choice, columns):
    """The classes whose maps compete, for each target and example, the target's first."""
    table = torch.tensor(columns).T
    return [
        [row[at[there]].tolist() for row, at, there in zip(table, contest.maps, contest.counts)]
        for contest in choice.contests
    ]


def test_classes_that_several_need_have_one_map():
    scores = torch.tensor([[9.0, 8.0, 7.0, 6.0, 5.0, 4.0]] * 2)
    choice = Choice([0, [1, 5]], None, 3)
    columns = choice({"logits": scores})
    assert columns == [[0, 0], [1, 1], [2, 2], [5, 4], [5, 5]]  # the first example needs four, its last again
    assert classes_of(choice, columns) == [[[0, 1, 2, 5], [0, 1, 2, 5]], [[1, 0, 2, 5], [5, 0, 1, 4]]]


@pytest.mark.parametrize("classes", [[4, 2, 4, 0], torch.tensor([4, 2, 0]), np.array([[0, 4, 2], [2, 4, 0]])])
def test_given_classes_hold_the_target_or_not_and_names_twice_count_once(classes):
    choice = Choice([[0, 3]], checked_classes(classes), 1)
    columns = choice(torch.zeros(2, 5))
    assert classes_of(choice, columns) == [[[0, 2, 4], [3, 0, 2, 4]]]
    assert len(columns) == 4


@pytest.mark.parametrize("target", [[-1, -1], (-1,), torch.tensor([4, 4]), [(4,), (-1,)], np.int64(4)])
def test_every_form_of_target(target):
    target = target if not isinstance(target, list) or isinstance(target[0], tuple) else -1
    choice = Choice([target], [1, 4], 1)
    assert classes_of(choice, choice(torch.zeros(2, 5))) == [[[4, 1], [4, 1]]]


@pytest.mark.parametrize("wrong", ["dog", [], [[]], [1.0], [True], [[1], []], torch.rand(3), 7])
def test_given_classes_of_no_form(wrong):
    with pytest.raises(TypeError, match=r"classes is .*; expected a list of class indices, or one for each example"):
        checked_classes(wrong)


@pytest.mark.parametrize(
    ("classes", "scores", "expected"),
    [
        ([1, 5], torch.zeros(2, 5), "classes holds 5; expected classes from 0 to 4"),
        ([-1], torch.zeros(2, 5), "classes holds -1; expected classes from 0 to 4"),
        ([[1], [2], [3]], torch.zeros(2, 5), "classes holds 3 rows for 2 examples; expected one each, or one list"),
        ([0], torch.zeros(2, 5), "classes holds no class but the target, 0, for example 0; expected at least one"),
        (None, torch.zeros(2, 1), r"scores of shape \(2, 1\); expected N x classes, two or more"),
        (None, torch.zeros(2), r"scores of shape \(2,\); expected N x classes, two or more"),
        (None, torch.zeros(2, 5, 3), r"scores of shape \(2, 5, 3\); expected N x classes"),
    ],
)
def test_errors_name_what_was_got(classes, scores, expected):
    with pytest.raises(ValueError, match=expected):
        Choice([0], checked_classes(classes), 4)(scores)
