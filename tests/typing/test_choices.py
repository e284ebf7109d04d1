"""The choices that type checkers know are those that are taken."""

from typing import get_args

import pytest

from captum_extract_aggregate.attr import meta_saliency
from captum_extract_aggregate.attr.extract_aggregate.aggregate import AGGREGATES, AggregateName
from captum_extract_aggregate.attr.extract_aggregate.extract import (
    REAL_LAYER_EXTRACTS,
    VIRTUAL_EXTRACTS,
    Extract,
    virtual_extract,
)
from captum_extract_aggregate.attr.gradcam import Positive
from captum_extract_aggregate.attr.propagation.lrp_rules import Lost
from captum_extract_aggregate.attr.propagation.shares import Sums, parts_of_sums


def test_aggregates():
    assert set(get_args(AggregateName)) == set(AGGREGATES)


def test_extracts():
    assert {*VIRTUAL_EXTRACTS, *REAL_LAYER_EXTRACTS} <= set(get_args(Extract))
    for name in set(get_args(Extract)) - set(REAL_LAYER_EXTRACTS):
        assert callable(virtual_extract(name))


def test_losses():
    assert set(get_args(meta_saliency.LossName)) == set(meta_saliency.LOSSES)


@pytest.mark.parametrize("sums", get_args(Sums))
@pytest.mark.parametrize("lost", get_args(Lost))
def test_sums(sums, lost):
    assert parts_of_sums(sums, lost)


def test_positive():
    assert set(get_args(Positive)) == {"abs", "relu"}
