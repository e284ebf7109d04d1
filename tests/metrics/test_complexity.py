"""Complexity: literal references, closed forms, laws, rounding and scale."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captum_extract_aggregate import metrics
from tests.reference import complexity as reference

MEASURES = {
    "sparseness": {},
    "complexity": {},
    "effective_complexity": {"threshold": 0.3, "relative": True},
    "histogram_entropy": {"bins": 7},
}


def drawn(n=4, size=(6, 7), seed=0):
    return torch.randn(n, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", MEASURES)
def test_literal_references_at_any_scale(name):
    maps = drawn()
    maps[1] = maps[1].round()
    maps[2] = -0.1
    maps[3] = 0
    arguments, measure = MEASURES[name], getattr(metrics, name)
    expected = [getattr(reference, name)(a.numpy(), **arguments) for a in maps]
    np.testing.assert_allclose(measure(maps, **arguments).numpy(), expected, rtol=1e-10, atol=1e-14)
    channels = torch.stack([maps - 1, torch.ones_like(maps)], 1)
    np.testing.assert_allclose(measure(channels, **arguments).numpy(), expected, rtol=1e-10, atol=1e-14)
    scaled = maps * torch.tensor([1e-9, 1e6, 1e3, 1.0])[:, None, None]  # each beside others of other scales
    np.testing.assert_allclose(measure(scaled, **arguments).numpy(), expected, rtol=1e-10, atol=1e-14)
    assert measure(maps, **arguments).dtype == torch.float64
    alone = torch.cat([measure(a[None], **arguments) for a in maps])
    np.testing.assert_allclose(alone.numpy(), expected, rtol=1e-10, atol=1e-14)
    volume = maps.reshape(4, 1, 2, 3, 7)
    np.testing.assert_allclose(measure(volume, **arguments).numpy(), expected, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(measure(maps.flatten(1), **arguments).numpy(), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", MEASURES)
def test_undefined_maps_and_other_kinds(name):
    maps, arguments, measure = drawn(), MEASURES[name], getattr(metrics, name)
    expected = measure(maps, **arguments)
    maps[1, 0, 0], maps[2, 1, 1] = math.nan, -math.inf
    found = measure(maps, **arguments)
    assert found.isnan().tolist() == [False, True, True, False]
    assert torch.equal(found[[0, 3]], expected[[0, 3]])
    for kind in (torch.float16, torch.int32, torch.bool):
        assert measure((drawn() * 3).to(kind), **arguments).isfinite().all()


@given(st.integers(2, 60), st.floats(1e-9, 1e6))
def test_closed_forms(n, scale):
    single, level = torch.zeros(1, n), torch.full((1, n), scale)
    single[0, n // 2] = -scale
    assert metrics.sparseness(single).item() == pytest.approx(1 - 1 / n)
    assert metrics.sparseness(level).item() == pytest.approx(0, abs=1e-7)
    assert metrics.complexity(single).item() == 0
    assert metrics.complexity(level).item() == pytest.approx(math.log(n))
    assert metrics.effective_complexity(single, 0.0).item() == 1
    assert metrics.effective_complexity(level, 0.5, relative=True).item() == n
    assert metrics.histogram_entropy(level).item() == 0
    ramp = torch.arange(n, dtype=torch.float64)[None] * scale
    assert metrics.histogram_entropy(ramp, bins=n).item() == pytest.approx(math.log(n), abs=0.7 / n**0.5)


def test_noise_has_its_known_values():
    noise = torch.rand(1, 100_000, generator=torch.Generator().manual_seed(0))
    assert metrics.sparseness(noise).item() == pytest.approx(1 / 3, abs=0.003)
    assert metrics.complexity(noise).item() == pytest.approx(math.log(100_000) - math.log(2) + 0.5, abs=0.003)
    assert metrics.histogram_entropy(noise).item() == pytest.approx(math.log(100), abs=0.001)


def test_edges_of_bins():
    values = torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]], dtype=torch.float64)
    for bins in (1, 2, 5, 10, 100):
        for factor in (1, 1e-9, 3, 1e6):
            expected = reference.histogram_entropy(values[0].numpy() * factor, bins)
            assert metrics.histogram_entropy(values * factor, bins).item() == pytest.approx(expected, abs=1e-12)


def test_a_map_that_is_constant_but_for_rounding_is_constant():
    rounded = torch.full((1, 1, 7, 7), 0.1) + torch.rand(1, 1, 7, 7) * 1e-7
    assert metrics.histogram_entropy(rounded).item() == 0
    assert metrics.sparseness(rounded).item() == pytest.approx(0, abs=1e-7)


def test_entropy_rise():
    maps, randomised = drawn(seed=0), drawn(seed=1) ** 3
    maps[2] = 5
    expected = [reference.entropy_rise(a.numpy(), b.numpy(), 20) for a, b in zip(maps, randomised)]
    np.testing.assert_allclose(metrics.entropy_rise(maps, randomised, 20).numpy(), expected, rtol=1e-10)
    assert metrics.entropy_rise(maps, randomised).isnan().tolist() == [False, False, True, False]
    assert metrics.entropy_rise(maps, maps)[0].item() == 0
    np.testing.assert_allclose(metrics.entropy_rise(maps * 1e-9, randomised * 1e6, 20).numpy(), expected, rtol=1e-10)


def test_wrong_uses():
    maps = drawn()
    for run, error, message in (
        (lambda: metrics.sparseness(maps[0, 0]), TypeError, r"maps is \(7,\)"),
        (lambda: metrics.sparseness([maps]), TypeError, "maps is list"),
        (lambda: metrics.complexity(maps[None, None, None]), ValueError, "one to three position dimensions"),
        (lambda: metrics.effective_complexity(maps, -1), ValueError, "threshold is -1; expected a number of at least"),
        (lambda: metrics.effective_complexity(maps, 1.5, True), ValueError, "threshold is 1.5; expected a share"),
        (lambda: metrics.histogram_entropy(maps, 0), ValueError, "bins is 0"),
        (lambda: metrics.entropy_rise(maps, maps[:2]), ValueError, "maps has 4 examples, and randomised 2"),
    ):
        with pytest.raises(error, match=message):
            run()
