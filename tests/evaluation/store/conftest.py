"""Results that nobody disturbed."""

import pytest

from tests.evaluation.plans import evaluated
from tests.evaluation.store.cases import QUICK


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A folder of results that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    evaluated(folder, **QUICK)
    return folder
