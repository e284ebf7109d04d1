"""Layouts that a function gives."""

import pytest
import torch

import captum_extract_aggregate as cea
from tests.engine.arranged import Views


def test_a_layout_that_does_not_fit():
    net, x = Views().eval(), torch.randn(2, 5, 3, 16, 16)
    with pytest.raises(ValueError, match=r"layout\(activation\) failed.*write -1"):
        cea.NormGrad(net, "last", layout=lambda t: t.unflatten(0, (3, 4))).attribute(x, 1)
