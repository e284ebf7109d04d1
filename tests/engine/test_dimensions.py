"""What the operations of a forward tell of a tensor's dimensions."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from captum_extract_aggregate._engine.dimensions import Watch
from captum_extract_aggregate._engine.layout import to_channels_first
from captum_extract_aggregate._engine.surroundings import Surroundings


def kinds(t, watch):
    dims = watch.dims(t)
    return None if dims is None else [sorted({part.kind for part in dim}) for dim in dims]


@st.composite
def arrangements(draw):
    """How an activation of two or three axes becomes a sequence of tokens."""
    axes = draw(st.integers(2, 3))
    order = draw(st.permutations(range(2 * axes)))  # of the axes' windows, and of the positions in a window
    return axes, order, draw(st.integers(0, 2)), draw(st.integers(0, 2)), draw(st.booleans())


@given(arrangements())
def test_tokens_go_back_to_where_they_were_cut_from(arrangement):
    """Cut into windows, permuted at will, flattened, between tokens without a place: the grid comes back exactly."""
    axes, order, before, after, linear = arrangement
    torch.manual_seed(0)
    conv = (nn.Conv2d, nn.Conv3d)[axes - 2](3, 4, 1)
    x = torch.randn(2, 3, *[4] * axes)  # as many channels as there are positions along each axis
    with torch.no_grad(), Watch([x], 2) as watch:
        expected = conv(x)
        cut = expected
        for axis in range(axes):
            cut = cut.unflatten(2 + 2 * axis, (2, 2))
        tokens = cut.permute(0, *(2 + i for i in order), 1).flatten(1, -2)
        if linear:
            tokens = torch.layer_norm(tokens, (4,)) * 0 + tokens @ torch.eye(4)
        place_less = torch.zeros(1, 1, 4)
        tokens = torch.cat([place_less.expand(2, before, 4), tokens, place_less.expand(2, after, 4)], 1)
        around = Surroundings(batch=2, look=lambda: [watch.dims(tokens)])
        assert torch.equal(to_channels_first(tokens, "auto", around)(tokens), expected)


CHANNELS_AT = {
    "convolution": (lambda x: F.conv1d(x, torch.ones(4, 4, 1)), 1),
    "transposed": (lambda x: F.conv1d(x, torch.ones(4, 4, 1)).mT, 2),
    "pooling": (lambda x: F.max_pool1d(x, 1), 1),
    "group norm": (lambda x: F.group_norm(x, 2), 1),
    "layer norm": (lambda x: F.layer_norm(x, (4,)), 2),
    "linear over positions": (lambda x: F.linear(F.conv1d(x, torch.ones(4, 4, 1)), torch.ones(4, 4)), 1),
    "weights from the left": (lambda x: torch.ones(4, 4) @ F.conv1d(x, torch.ones(4, 4, 1)), 1),
    "layer norm over positions": (lambda x: F.layer_norm(F.conv1d(x, torch.ones(4, 4, 1)), (4,)), 1),
    "einsum": (lambda x: torch.einsum("nkl,ko->nlo", F.conv1d(x, torch.ones(4, 4, 1)), torch.ones(4, 4)), 2),
    "addition": (lambda x: x.mT + F.conv1d(x, torch.ones(4, 4, 1)).mT, 2),
    "concatenation": (lambda x: torch.cat([F.conv1d(x, torch.ones(2, 4, 1)), torch.ones(4, 2, 4)], 1), 1),
    "stacked steps": (lambda x: torch.stack([F.layer_norm(x[:, i], (4,)) for i in range(4)], 1), 2),
    "chunks": (lambda x: F.conv1d(x, torch.ones(8, 4, 1)).chunk(2, 1)[1], 1),
    "in place": (lambda x: F.conv1d(x, torch.ones(4, 4, 1)).relu_().add_(1).transpose_(1, 2), 2),
    "keyword arguments": (lambda x: F.conv1d(input=x, weight=torch.ones(4, 4, 1)).permute(dims=(0, 2, 1)), 2),
    "attention": (lambda x: F.scaled_dot_product_attention(*[F.layer_norm(x, (4,))] * 3), 2),
    "told afterwards": (lambda x: (x, F.conv1d(x.mT, torch.ones(4, 4, 1)))[0], 2),
}


@pytest.mark.parametrize("case", CHANNELS_AT)
def test_where_operations_put_the_channels(case):
    operation, at = CHANNELS_AT[case]
    x = torch.randn(4, 4, 4)
    with Watch([x], 4) as watch:
        y = operation(x)
    found = kinds(y, watch)
    assert found[0] == ["batch"]
    assert found[at] in (["channel"], ["feature"])
    assert found[3 - at] in (["axis"], ["unknown"])


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: torch.rot90(x, 1, (1, 2)),
        lambda x: F.conv1d(x, torch.ones(4, 4, 1)).gather(2, torch.zeros(4, 4, 4, dtype=torch.long)),
        lambda x: F.conv1d(x, torch.ones(4, 4, 1)) + F.layer_norm(x, (4,)),  # contradictory
        lambda x: F.conv1d(F.layer_norm(x, (4,)), torch.ones(4, 4, 1)),  # along the channels?
        lambda x: F.linear(F.linear(x, torch.ones(4, 4)).mT, torch.ones(4, 4)),  # which of the two makes channels?
        lambda x: torch.ones(4, 4, 4),
    ],
)
def test_what_is_not_told_is_not_known(operation):
    x = torch.randn(4, 4, 4)
    with Watch([x], 4) as watch:
        y = operation(x)
    assert kinds(y, watch) is None


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_run_along_time(cell, batch_first):
    x = torch.randn(5, 5, 5)
    with Watch([x], 5) as watch:
        steps, states = cell(5, 5, 2, batch_first=batch_first)(x if batch_first else x.transpose(0, 1))
    assert kinds(steps, watch) == [
        [["batch"], ["axis"]][not batch_first],
        [["axis"], ["batch"]][not batch_first],
        ["channel"],
    ]
    for state in states if isinstance(states, tuple) else [states]:
        assert kinds(state, watch) == [["state"], ["batch"], ["channel"]]


def test_a_watched_forward_gives_what_any_other_gives():
    x, conv = torch.randn(2, 3, 8, 8), nn.Conv2d(3, 4, 3)
    with Watch([x], 2):
        watched = conv(x).relu_().flatten(2).transpose(1, 2)
    assert torch.equal(watched, conv(x).relu_().flatten(2).transpose(1, 2))
