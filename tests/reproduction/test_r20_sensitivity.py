"""R20's figures of sensitivity: small ones run."""

import pytest

from captum_extract_aggregate.reproduction import EXPERIMENTS, carry_out, r20_sensitivity
from captum_extract_aggregate.reproduction.r20_sensitivity import with_and_without
from tests.reproduction.outcomes import check_outcome, names

OWN = [name for name, e in EXPERIMENTS.items() if e.run.__module__ == r20_sensitivity.__name__]


def test_which_they_are():
    assert OWN == ["r20-fig6", "r20-fig7", "r20-fig8", "r20-grid"]


def test_the_step_of_meta_saliency_is_the_published_one(setting):
    """2 epsilon, with epsilon .001, by the setting's own loss."""
    plain, meta = with_and_without(setting, ("selective",), ("layer3",))
    assert plain.meta_saliency is None
    assert meta.meta_saliency.lr == 0.002
    assert not meta.meta_saliency.ascent
    assert (plain.label, meta.label, meta.layers) == ("selective", "selective, meta", ("layer3",))


@pytest.mark.parametrize("name", names(r20_sensitivity))
def test_small_experiments_give_tables_findings_or_pictures(name, setting):
    check_outcome(carry_out(name, setting))
