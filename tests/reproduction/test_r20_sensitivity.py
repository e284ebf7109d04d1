"""R20's figures of sensitivity: small ones run."""

import pytest

from captum_extract_aggregate.reproduction import EXPERIMENTS, carry_out, r20_sensitivity
from tests.reproduction.outcomes import QUICK, check_outcome

OWN = [name for name, e in EXPERIMENTS.items() if e.run.__module__ == r20_sensitivity.__name__]


def test_which_they_are():
    assert OWN == ["r20-fig6", "r20-fig7", "r20-fig8", "r20-fig10", "r20-fig12", "r20-fig15"]


@pytest.mark.parametrize("name", [name for name in OWN if name in QUICK])
def test_small_experiments_give_tables_findings_or_pictures(name, setting):
    check_outcome(carry_out(name, setting))
