"""Fixtures of several of the room's tests."""

import gc

import pytest


@pytest.fixture
def only_new_objects():
    """The garbage collector sees what a test makes alone, and is quick beside the thousands of modules' objects."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
