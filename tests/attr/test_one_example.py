"""A batch taken apart into its examples, and put together again."""

from collections import namedtuple

import pytest
import torch

from captum_extract_aggregate.attr.one_example import detached, joined, of_example, target_of_example

Pair = namedtuple("Pair", ["first", "second"])


def test_tensors_with_an_entry_per_example_are_cut_and_all_else_is_shared():
    batch, shared = torch.arange(6.0).view(3, 2), torch.zeros(2, 2)
    given = {"a": (batch, shared), "b": [batch, 5], "c": Pair(batch, None)}
    got = of_example(given, 1, 3)
    assert torch.equal(got["a"][0], batch[1:2])
    assert got["a"][1] is shared
    assert torch.equal(got["b"][0], batch[1:2])
    assert got["b"][1] == 5
    assert isinstance(got["c"], Pair)
    assert torch.equal(got["c"].first, batch[1:2])


@pytest.mark.parametrize("target", [[4, 5, 6], torch.tensor([4, 5, 6])])
def test_a_target_per_example_is_cut(target):
    assert [int(t) for t in target_of_example(target, 2, 3)] == [6]


@pytest.mark.parametrize("target", [4, None, (1, 2)])
def test_a_target_of_all_is_shared(target):
    assert target_of_example(target, 2, 3) == target


def test_a_wrong_number_of_targets():
    with pytest.raises(ValueError, match="target has 2 entries for 3 examples"):
        target_of_example([1, 2], 0, 3)


def test_results_are_joined_in_their_form_without_a_graph():
    results = [([torch.full((1, 2), float(i), requires_grad=True)], torch.tensor(float(i)), "same") for i in range(3)]
    maps, deltas, text = joined([detached(result) for result in results])
    assert maps[0].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert not maps[0].requires_grad
    assert deltas.tolist() == [0, 1, 2]
    assert text == "same"
