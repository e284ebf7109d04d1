"""Whole numbers of Python's, NumPy's and torch's."""

import numpy as np
import pytest
import torch

from captum_extract_aggregate.scores.indices import index_or_none, indices_or_none


@pytest.mark.parametrize("value", [3, np.int64(3), torch.tensor(3), torch.tensor([3])])
def test_an_index(value):
    assert index_or_none(value) == 3


@pytest.mark.parametrize("value", [None, 3.0, True, "3", torch.tensor(3.0), torch.tensor([3, 4]), [3]])
def test_what_is_no_index(value):
    assert index_or_none(value) is None


@pytest.mark.parametrize("values", [(3, 4), [3, 4], np.array([3, 4]), torch.tensor([3, 4])])
def test_indices(values):
    assert indices_or_none(values) == [3, 4]


@pytest.mark.parametrize("values", [None, 3, "34", (3, 4.0)])
def test_what_are_no_indices(values):
    assert indices_or_none(values) is None
