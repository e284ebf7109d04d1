import pytest

from captum_extract_aggregate.attr.extract_aggregate.aggregate import AGGREGATES
from captum_extract_aggregate.attr.extract_aggregate.extract import REAL_LAYERS


@pytest.fixture
def tables():
    """The tables as they were, whatever a test registers."""
    kept = [(table, dict(table._things)) for table in (REAL_LAYERS, AGGREGATES)]
    yield
    for table, content in kept:
        table._things = content
