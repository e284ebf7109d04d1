"""R20's figures of sensitivity: small ones run."""

import pytest

from captum_extract_aggregate.reproduction import EXPERIMENTS, carry_out, r20_sensitivity
from tests.reproduction.outcomes import check_outcome, names

OWN = [name for name, e in EXPERIMENTS.items() if e.run.__module__ == r20_sensitivity.__name__]


def test_which_they_are():
    assert OWN == ["r20-fig6", "r20-fig7", "r20-fig8", "r20-fig10", "r20-fig12", "r20-fig15"]


@pytest.mark.parametrize("name", names(r20_sensitivity))
def test_small_experiments_give_tables_findings_or_pictures(name, setting):
    check_outcome(carry_out(name, setting))
