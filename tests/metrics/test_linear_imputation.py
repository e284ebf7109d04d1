"""Linear imputation: a dense solution, harmonic functions, company, noise."""

import sys

import numpy as np
import pytest
import torch

from captum_extract_aggregate.metrics import linear_imputation
from tests.reference import perturbation as reference


def drawn(n, size, share=0.6, channels=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, channels, *size, generator=generator, dtype=dtype)
    return x, torch.rand(n, 1, *size, generator=generator) < share


@pytest.mark.parametrize("size", [(1,), (30,), (1, 70), (7, 8), (13, 16), (4, 3, 5), (2, 17, 4)])
def test_dense_solutions(size):
    """Of scattered pixels, of nothing that is gone or there, and of one that is left."""
    x, gone = drawn(4, size)
    gone[1], gone[2], gone[3] = True, False, True
    gone[3].view(-1)[-1] = False
    expected = [reference.linear_imputation(a.numpy(), g[0].numpy()) for a, g in zip(x, gone)]
    for scale in (1, 1e-9, 1e6):
        found = linear_imputation(x * scale, gone)
        np.testing.assert_allclose(found.numpy() / scale, expected, rtol=0, atol=1e-8)
        assert torch.equal(torch.where(gone, 0, found), torch.where(gone, 0, x * scale))
    single = linear_imputation(x.float(), gone[:, 0])
    np.testing.assert_allclose(single.numpy(), expected, rtol=0, atol=2e-3)
    assert single.dtype == torch.float32
    assert linear_imputation(x.half(), gone).dtype == torch.float16


def test_a_large_hole_in_a_slope_is_the_slope():
    """Inside the picture a linear function is the mean of its neighbours."""
    slope = torch.arange(40.0, dtype=torch.float64)[None, None, :, None] + torch.arange(48.0) * 0.5
    gone = torch.zeros(1, 1, 40, 48, dtype=torch.bool)
    gone[..., 3:-3, 2:-2] = True
    torch.testing.assert_close(linear_imputation(torch.where(gone, 99.0, slope), gone), slope)


@pytest.mark.parametrize("scale", [1e2, 1e5])
def test_what_is_easy_and_large_does_not_hide_what_is_hard(scale):
    """Single pixels that are gone are solved in one step, which foretells nothing of a large hole."""
    x = torch.rand(1, 1, 96, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, :, :48] *= scale
    gone = torch.zeros(1, 1, 96, 96, dtype=torch.bool)
    gone[:, :, 1:48:4, 1::4] = gone[:, :, 52:92, 4:92] = True
    expected = torch.from_numpy(reference.linear_imputation(x[0].numpy(), gone[0, 0].numpy()))[None]
    for dtype, error in ((torch.float64, 1e-11), (torch.float32, 1e-4)):
        found = linear_imputation(x.to(dtype), gone).double()
        assert (found - expected).norm() < error * expected.norm()
        if dtype == torch.float64:
            torch.testing.assert_close(found[:, :, 52:92], expected[:, :, 52:92], rtol=0, atol=1e-11 * scale)


@pytest.mark.parametrize("exponent", [-100, -60, 60, 120])
def test_units_do_not_matter(exponent):
    """Where the squares of the numbers are infinite, or 0."""
    generator = torch.Generator().manual_seed(0)
    x, gone = torch.rand(3, 2, 30, 40, generator=generator), torch.rand(3, 1, 30, 40, generator=generator) < 0.7
    x[0, 1] = 0
    factor = torch.tensor([[1.0, 1.0], [2.0, 1.0], [1.0, 1.0]])[..., None, None] * 2.0**exponent
    found = linear_imputation(x * factor, gone)
    assert torch.equal(found, linear_imputation(x, gone) * factor)
    assert found[2].amin() > 0


def test_company_changes_nothing(elsewhere):
    x, gone = drawn(6, (17, 14))
    gone[0] = True
    gone[0, 0, 5] = False  # takes longer than the others
    x[1] *= 1e6
    found = linear_imputation(x, gone)
    for i in range(6):
        torch.testing.assert_close(
            found[i : i + 1], linear_imputation(x[i : i + 1], gone[i : i + 1]), rtol=1e-12, atol=0
        )
    elsewhere()
    torch.testing.assert_close(linear_imputation(x, gone), found, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("size", [(17, 14), (9, 4, 6)])
def test_many_examples_share_the_systems_of_their_channels(size, elsewhere):
    x, gone = drawn(9, size, channels=3)
    gone[2] = True
    found = linear_imputation(x, gone)
    for i in range(9):
        alone = linear_imputation(x[i : i + 1], gone[i : i + 1])
        torch.testing.assert_close(found[i : i + 1], alone, rtol=1e-10, atol=1e-11)
    elsewhere()
    torch.testing.assert_close(linear_imputation(x, gone), found, rtol=1e-10, atol=1e-11)


def test_few_steps_of_conjugate_gradients(monkeypatch):
    """What costs the time, whatever the machine: a large hole, scattered pixels, and one that is left of all."""
    module, cycles = sys.modules[linear_imputation.__module__], []
    cycle = module._cycle
    monkeypatch.setattr(module, "_cycle", lambda *given: cycles.append(1) or cycle(*given))
    x = torch.randn(1, 1, 113, 97, generator=torch.Generator().manual_seed(0))
    hole, one = torch.zeros(1, 1, 113, 97, dtype=torch.bool), torch.ones(1, 1, 113, 97, dtype=torch.bool)
    hole[..., 20:90, 10:80], one[..., 5, 7] = True, False
    for gone, most in ((hole, 8), (drawn(1, (113, 97), 0.9)[1], 8), (one, 12)):
        cycles.clear()
        linear_imputation(x, gone)
        assert len(cycles) <= most


def test_what_is_gone_is_not_looked_at():
    x, gone = drawn(8, (6, 7))
    expected = linear_imputation(x, gone)
    for value in (torch.nan, torch.inf):
        assert torch.equal(linear_imputation(x.masked_fill(gone, value), gone), expected)
        line, missing = x.masked_fill(gone, value).flatten(2), gone.flatten(2)
        assert torch.equal(linear_imputation(line, missing), linear_imputation(x.flatten(2), missing))


def test_noise_is_on_what_is_gone_and_the_same_for_all():
    x, gone = drawn(3, (30, 40))
    plain, noisy = linear_imputation(x, gone), linear_imputation(x, gone, noise=0.01)
    field = noisy - plain
    assert not field[(~gone).expand_as(field)].any()
    assert field[gone.expand_as(field)].std().item() == pytest.approx(0.01, rel=0.05)
    both = gone[:1] & gone[1:2]
    torch.testing.assert_close(torch.where(both, field[:1], 0), torch.where(both, field[1:2], 0), rtol=0, atol=1e-6)
    assert torch.equal(linear_imputation(x, gone, noise=0.01), noisy)
    assert not torch.equal(linear_imputation(x, gone, noise=0.01, seed=1), noisy)
    for scale, noise, error in (
        (1, 0.01, 3e-4),
        (255, 0.01, 3e-5),
        (1, 1e-9, 3e-5),
    ):  # what noise hides need not be exact
        exact = linear_imputation(scale * x, gone, noise=noise)
        assert (linear_imputation((scale * x).float(), gone, noise=noise) - exact).norm() < error * exact.norm()


def test_wrong_uses():
    x, gone = drawn(2, (6, 6))
    for run, error, message in (
        (lambda: linear_imputation(x.int(), gone), TypeError, r"x is \(2, 2, 6, 6\); expected a floating point"),
        (lambda: linear_imputation(x, gone.float()), ValueError, "gone is torch.float32"),
        (lambda: linear_imputation(x, gone[:1]), ValueError, r"gone is torch.bool \(1, 1, 6, 6\)"),
        (lambda: linear_imputation(x, None), ValueError, "gone is NoneType"),
    ):
        with pytest.raises(error, match=message):
            run()


def test_a_device_is_seldom_waited_for(monkeypatch):
    """As on a device, which a question whether all are done would stop at every step."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Waits(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    x = torch.randn(3, 2, 20, 28, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gone = torch.rand(3, 1, 20, 28, generator=torch.Generator().manual_seed(1)) < 0.8
    with Waits() as on_a_cpu:
        expected = linear_imputation(x, gone)
    monkeypatch.setattr(sys.modules[linear_imputation.__module__], "on_cpu", lambda t: False)
    with Waits() as elsewhere:
        found = linear_imputation(x, gone)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert on_a_cpu.count > 10
    assert elsewhere.count <= on_a_cpu.count // 8 + 2
