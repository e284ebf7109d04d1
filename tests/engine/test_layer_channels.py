"""What a layer's type tells of where its channels are, and how many."""

import pytest
from torch import nn
from torchvision.models.convnext import LayerNorm2d

from captum_extract_aggregate._engine.layer_channels import holds, is_layer_norm_2d, widths, widths_of


class ToldWhere(nn.LayerNorm):
    """As in Hugging Face's ConvNeXts, at both sides by one class."""

    def __init__(self, width, data_format="channels_first"):
        super().__init__(width)
        self.data_format = data_format


def test_a_layer_norm_over_the_channels_of_a_picture():
    assert is_layer_norm_2d(LayerNorm2d(4))
    assert is_layer_norm_2d(ToldWhere(4))
    assert not is_layer_norm_2d(ToldWhere(4, "channels_last"))
    assert not is_layer_norm_2d(nn.LayerNorm(4))
    assert not is_layer_norm_2d(nn.BatchNorm2d(4))


@pytest.mark.parametrize(
    ("module", "first", "last"),
    [
        (nn.Conv2d(3, 4, 1), True, False),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4)), True, False),
        (LayerNorm2d(4), True, False),
        (ToldWhere(4), True, False),
        (ToldWhere(4, "channels_last"), False, True),
        (nn.LayerNorm(4), False, True),
        (nn.LayerNorm((4, 5)), False, False),  # over positions too
        (nn.GRU(3, 4), False, True),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 2)), True, True),
        (nn.ReLU(), False, False),
        (None, False, False),
    ],
)
def test_the_side_of_the_channels(module, first, last):
    assert (holds(module, "first"), holds(module, "last")) == (first, last)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Conv2d(3, 4, 1), {3, 4}),
        (nn.Linear(5, 7), {5}),  # 7 may be the number of classes
        (nn.LayerNorm(6), {6}),
        (nn.LayerNorm((6, 7)), set()),
        (nn.BatchNorm2d(8), {8}),
        (nn.GroupNorm(2, 8), {8}),
        (nn.MultiheadAttention(8, 2), {8}),
        (nn.LSTM(3, 5, bidirectional=True), {3, 10}),
        (nn.ReLU(), set()),
    ],
)
def test_numbers_of_channels_of_a_layer(module, expected):
    assert widths_of(module) == expected


def test_a_linear_layer_that_is_the_layer_itself_gives_channels():
    assert widths(nn.Linear(5, 7)) == {5, 7}
    assert widths(nn.Sequential(nn.Linear(5, 7), nn.Conv1d(2, 3, 1))) == {2, 3, 5}
    assert widths(None) == set()
