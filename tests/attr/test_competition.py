"""What a class keeps of its map: a literal reference, and the laws of a competition."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captum_extract_aggregate.attr.competition import kept_by_first
from tests.reference.competition import competing_map

WAYS = [
    {"temperature": t, "threshold": tau, "normalize": n} for t, tau in ((10.0, 0.01), (3.0, 0.1)) for n in (0, 1)
] + [{"temperature": 1.0, "threshold": -1.0, "normalize": True}]


def drawn(seed, classes=4, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, classes, 1, 3, 5, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_the_literal_reference(way, scale):
    maps = drawn(0, scale=scale)
    counts = torch.tensor([[True] * 4, [True, True, False, True]])
    got = kept_by_first(maps, counts, **way)
    for m, takes_part, kept in zip(maps, counts, got):
        expected = competing_map(m[0], [r for r, there in zip(m[1:], takes_part[1:]) if there], **way)
        torch.testing.assert_close(kept, expected, rtol=1e-12, atol=1e-12)


@given(st.integers(0, 10**6), st.integers(2, 6), st.sampled_from(WAYS), st.floats(0.01, 100))
def test_laws(seed, classes, way, scale):
    maps, all_ = drawn(seed, classes, scale), torch.ones(2, classes, dtype=torch.bool)
    order = torch.randperm(classes - 1, generator=torch.Generator().manual_seed(seed)) + 1
    kept = kept_by_first(maps, all_, **way)
    permuted = kept_by_first(maps[:, [0, *order.tolist()]], all_, **way)
    torch.testing.assert_close(permuted, kept, rtol=1e-9, atol=1e-9 * scale)
    own = [kept_by_first(maps.roll(-c, 1), all_, **way) for c in range(classes)]
    assert all(bool((k.abs() <= m.abs()).all()) for k, m in zip(own, maps.unbind(1)))
    assert bool((sum(k.abs() for k in own) <= maps.abs().amax(1) * (1 + 1e-12)).all())
    assert bool((kept * maps[:, 0] >= 0).all())  # the sign is the map's
    if way["normalize"]:
        torch.testing.assert_close(kept_by_first(8 * maps, all_, **way), 8 * kept, rtol=0, atol=0)


def test_maps_that_are_alike_keep_nothing_and_zeros_are_no_division():
    all_ = torch.ones(2, 3, dtype=torch.bool)
    for normalize in (False, True):
        for same in (torch.ones(2, 3, 4), torch.zeros(2, 3, 4)):
            assert not kept_by_first(same, all_, 10.0, 0.01, normalize).any()


def test_what_is_undefined_stays_so():
    maps = torch.ones(1, 2, 3)
    maps[0, 0] = torch.tensor([torch.nan, 5.0, 0.0])
    kept = kept_by_first(maps, torch.ones(1, 2, dtype=torch.bool), 10.0, 0.01, False)[0]
    assert kept.isnan().tolist() == [True, False, False]
    assert kept[1] == 5


def test_half_precision_is_competed_in_single():
    maps = drawn(1).bfloat16()
    all_ = torch.ones(2, 4, dtype=torch.bool)
    kept = kept_by_first(maps, all_, 10.0, 0.01, True)
    assert kept.dtype == torch.bfloat16
    assert torch.equal(kept, kept_by_first(maps.float(), all_, 10.0, 0.01, True).bfloat16())
