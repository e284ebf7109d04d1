"""Imputers: literal references, and what a function of one's own may do."""

import numpy as np
import pytest
import torch

from captum_extract_aggregate.metrics import imputers
from tests.reference import perturbation as reference


@pytest.mark.parametrize("size", [(9,), (14, 5), (3, 2, 4)])
def test_fills(size):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gone = np.ones(size, dtype=bool)
    for name, slow in (("mean", reference.mean), ("blur", reference.blur)):
        found = imputers.FILLS[name](x)
        np.testing.assert_allclose(found.numpy(), [slow(one.numpy(), gone) for one in x], rtol=1e-10, atol=1e-12)
    level = torch.full((1, 1, *size), 0.3)
    torch.testing.assert_close(imputers.blurred(level), level)


def test_road_is_linear_with_noise():
    x, gone = torch.randn(1, 1, 20, 20), torch.rand(1, 1, 20, 20) < 0.5
    difference = (imputers.IMPUTERS["road"](x, gone) - imputers.IMPUTERS["linear"](x, gone))[gone]
    assert difference.std().item() == pytest.approx(0.01, rel=0.3)


def test_functions_of_one_s_own():
    x, gone = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4) < 0.5
    before = x.clone(), gone.clone()

    def writes(x, gone):
        x[gone] = 7
        gone.fill_(False)
        return x.double()

    assert torch.equal(imputers.imputed(writes, x, gone), torch.where(gone, 7.0, x))
    assert torch.equal(x, before[0])
    assert torch.equal(gone, before[1])
    assert imputers.check_imputer(writes) is writes
    with pytest.raises(TypeError, match=r"imputer returned \(2, 1\) for inputs of \(2, 1, 4, 4\)"):
        imputers.imputed(lambda x, gone: x[..., 0, 0], x, gone)
    with pytest.raises(ValueError, match="imputer is 'blurr', which is unknown; did you mean 'blur'"):
        imputers.check_imputer("blurr")
