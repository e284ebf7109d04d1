"""Fixtures of the tests of propagation."""

import pytest
import torch

from tests.attr.propagation.cases import plain, residual


@pytest.fixture(params=["plain", "residual"])
def steps(request):
    torch.manual_seed(0)
    return {"plain": plain, "residual": residual}[request.param]()
