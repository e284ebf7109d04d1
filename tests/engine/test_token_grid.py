"""Tokens as the grid of patches that they were cut from."""

import pytest
import torch
from torch import nn

from captum_extract_aggregate._engine.layout import to_channels_first
from captum_extract_aggregate._engine.surroundings import Surroundings


def test_the_model_says_how_many_tokens_have_no_place():
    class WithRegisters(nn.Module):
        num_prefix_tokens = 3

    around = Surroundings(batch=1, image=(32, 32), models=(WithRegisters(),))
    t = torch.zeros(1, 19, 8)
    assert tuple(to_channels_first(t, "tokens", around)(t).shape) == (1, 8, 4, 4)
    with pytest.raises(ValueError, match="make no grid"):
        to_channels_first(torch.zeros(1, 17, 8), "tokens", around)


def test_tokens_in_an_order_of_the_model_s_own():
    class Hiera(nn.Module):
        reroll = None

    with pytest.raises(ValueError, match="row by row"):
        to_channels_first(torch.zeros(2, 16, 24), "tokens", Surroundings(batch=2, image=(32, 32), models=(Hiera(),)))
