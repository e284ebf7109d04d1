"""Telling channels from positions."""

import pytest
import torch
from torch import nn
from torchvision.models.convnext import LayerNorm2d

from captum_extract_aggregate.layout import Surroundings, image_size, to_channels_first

CONVOLUTIONAL = nn.Sequential(nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24), nn.ReLU())
TRANSFORMER = nn.Sequential(nn.Linear(24, 24), nn.LayerNorm(24), nn.GELU())


def shape(t, layout="auto", **around):
    around = Surroundings(batch=t.shape[0], **around)
    return tuple(to_channels_first(t, layout, around)(t).shape[1:])


@pytest.mark.parametrize(
    ("size", "around", "expected"),
    [
        ((24, 7, 5), {"module": CONVOLUTIONAL[0]}, (24, 7, 5)),
        ((7, 5, 24), {"module": TRANSFORMER[0]}, (24, 7, 5)),
        ((24, 7, 5), {"module": CONVOLUTIONAL}, (24, 7, 5)),
        ((7, 5, 24), {"module": TRANSFORMER}, (24, 7, 5)),
        ((24, 7, 5), {"module": CONVOLUTIONAL[2], "models": (CONVOLUTIONAL,)}, (24, 7, 5)),
        ((7, 5, 24), {"module": TRANSFORMER[2], "models": (TRANSFORMER,)}, (24, 7, 5)),
        ((24, 24, 24), {"module": CONVOLUTIONAL}, (24, 24, 24)),
        ((9, 7, 7), {}, (9, 7, 7)),  # nothing known: square pictures
        ((7, 7, 9), {}, (9, 7, 7)),
        ((6, 7, 5, 24), {"module": TRANSFORMER}, (24, 6, 7, 5)),
        ((24, 30), {"module": CONVOLUTIONAL}, (24, 30)),
        ((17, 24), {"module": TRANSFORMER, "image": (64, 64)}, (24, 4, 4)),  # class token
        ((16, 24), {"module": TRANSFORMER, "image": (64, 64)}, (24, 4, 4)),
        ((18, 24), {"module": TRANSFORMER, "image": (64, 64)}, (24, 4, 4)),  # class and distillation token
        ((21, 24), {"module": TRANSFORMER, "image": (64, 64)}, (24, 4, 4)),  # class and four register tokens
        ((193, 24), {"module": TRANSFORMER, "image": (256, 192)}, (24, 16, 12)),
        ((253, 24), {"module": TRANSFORMER, "image": (230, 300)}, (24, 14, 18)),  # patches that do not fit exactly
    ],
)
def test_channels_are_found(size, around, expected):
    assert shape(torch.zeros(2, *size), **around) == expected


@pytest.mark.parametrize(
    ("size", "module", "image", "expected"),
    [
        ((256, 16, 16), nn.Sequential(nn.Linear(256, 16), nn.Linear(16, 256)), (64, 64), (256, 16, 16)),  # gate
        ((3, 32, 32), nn.Sequential(nn.Linear(3 * 32 * 32, 32)), (32, 32), (3, 32, 32)),  # the input of an MLP
        ((96, 64, 96), nn.Sequential(nn.Conv2d(3, 96, 4, 4), LayerNorm2d(96)), (256, 384), (96, 64, 96)),
        ((96, 64, 96), LayerNorm2d(96), (256, 384), (96, 64, 96)),
        ((64, 96, 96), nn.Sequential(nn.Linear(96, 96)), (256, 384), (96, 64, 96)),  # channels last
        ((224, 224, 3), nn.Identity(), (224, 224), (3, 224, 224)),
        ((4, 6, 6, 24), nn.Identity(), (8, 48, 48), (24, 4, 6, 6)),  # video, channels last
    ],
)
def test_the_picture_s_proportions_count_more_than_numbers_of_channels(size, module, image, expected):
    assert shape(torch.zeros(2, *size), module=module, models=(module,), image=image) == expected


def test_the_picture_among_the_inputs():
    assert image_size((torch.zeros(2, 5), torch.zeros(2, 3, 40, 30))) == (40, 30)
    assert image_size((torch.zeros(2, 40, 30, 3),)) == (40, 30)
    assert image_size((torch.zeros(2, 3, 8, 40, 30),)) == (8, 40, 30)
    assert image_size((torch.zeros(2, 5, 6, 4),)) == (6, 4)
    assert image_size((torch.zeros(2, 5),)) == ()


def test_a_transformer_with_24_tokens_and_24_channels_in_a_mixed_model():
    mixed = nn.Sequential(CONVOLUTIONAL, TRANSFORMER)
    with pytest.raises(ValueError, match="nothing tells"):
        shape(torch.zeros(2, 24, 24), module=nn.Identity(), models=(mixed,))
    assert shape(torch.zeros(2, 25, 24), module=TRANSFORMER, models=(mixed,), image=(40, 40)) == (24, 5, 5)


def test_values_go_where_they_belong():
    grid = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)  # N K H W
    last = grid.movedim(1, -1)
    tokens = torch.cat([torch.full((2, 1, 3), -1.0), last.flatten(1, 2)], 1)
    around = Surroundings(batch=2, image=(16, 20))
    assert torch.equal(to_channels_first(last, "channels_last", around)(last), grid)
    assert torch.equal(to_channels_first(tokens, "tokens", around)(tokens), grid)
    assert torch.equal(to_channels_first(last, lambda t: t.permute(0, 3, 1, 2), around)(last), grid)


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


def test_a_batch_as_large_as_a_sequence_that_comes_first():
    attention = nn.Sequential(nn.MultiheadAttention(24, 2), nn.LayerNorm(24))
    with pytest.raises(ValueError, match="its batch from its sequence"):
        shape(torch.zeros(16, 16, 24), module=attention[1], models=(attention,), image=(32, 32))


@pytest.mark.parametrize(
    ("t", "layout", "match"),
    [
        (torch.zeros(2, 5), "auto", "no positions"),
        (torch.zeros(2), "auto", "no positions"),
        (torch.zeros(8, 49, 24), "auto", "not the batch"),
        (torch.zeros(2, 13, 24), "tokens", "make no grid"),
        (torch.zeros(2, 24, 24, 24), "tokens", "batch x tokens x channels"),
        (torch.zeros(2, 5, 6, 7), "auto", "nothing tells"),
        (torch.zeros(2, 5, 6), lambda t: t.flatten(1), "position dimensions"),
        (torch.zeros(2, 5, 6), lambda t: t.flatten(0, 1), "position dimensions"),
        (torch.zeros(2, 5, 6), lambda t: None, "NoneType"),
    ],
)
def test_undecidable_or_impossible(t, layout, match):
    with pytest.raises(ValueError, match=match):
        to_channels_first(t, layout, Surroundings(batch=2, image=(32, 32)))(t)
