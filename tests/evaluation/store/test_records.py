"""The record of what results belong to, as it is stored."""

from dataclasses import replace

import pytest

from captum_extract_aggregate.evaluation import plan_from
from captum_extract_aggregate.evaluation.store import Record, ResultsError
from captum_extract_aggregate.evaluation.store.records import record_of
from tests.evaluation.plans import content

RECORD = Record(
    plan_from(content(title="ä")),
    7,
    {"the network's weights": "ab", "code": "cd"},
    {("normgrad", "layer3", "class_sensitivity"): "12", ("a", "b", "c"): "34"},
    ["k1", "k2"],
    3,
)


def test_a_record_comes_back_as_it_was():
    assert record_of(RECORD.row()) == RECORD
    assert record_of(Record(RECORD.plan, 2).row()) == Record(RECORD.plan, 2, keys=[])


@pytest.mark.parametrize(
    "change", [{"images": 8}, {"inputs": {}}, {"cells": {}}, {"keys": ["k2", "k1"]}, {"generation": 4}]
)
def test_whatever_it_says_is_stored(change):
    assert replace(RECORD, **change).row() != RECORD.row()


def test_what_measures_said_stands_with_the_run():
    assert replace(RECORD, told={"mine": {"better": "lower"}}).row() == RECORD.row()


def test_a_folder_that_cannot_be_used_is_a_value_error():
    assert issubclass(ResultsError, ValueError)
