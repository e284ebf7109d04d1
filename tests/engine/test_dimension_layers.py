"""Layers and products: where they put the channels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from captum_extract_aggregate._engine.dimensions import Watch
from tests.engine.cases import kinds

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


@pytest.mark.parametrize("fused", [False, True])
def test_queries_of_the_whole_picture_find_what_is_a_window_s(fused):
    """Each of 2 x 3 windows is given the picture's own 2 x 2 cells as queries."""
    x = torch.randn(2, 4, 4, 6)
    with Watch([x], 2) as watch:
        x = F.conv2d(x, torch.ones(4, 4, 1, 1))
        windows = x.unflatten(2, (2, 2)).unflatten(4, (3, 2)).permute(0, 2, 4, 3, 5, 1).flatten(0, 2).flatten(1, 2)
        queries = F.adaptive_avg_pool2d(x, 2).flatten(2).mT.repeat_interleave(6, 0)
        if fused:
            found = F.scaled_dot_product_attention(queries, windows, windows)
        else:
            found = (queries @ windows.mT).softmax(-1) @ windows
    assert watch.dims(found) == watch.dims(windows)


def test_a_convolution_of_one_position_leaves_dimensions_as_they_are():
    x = torch.randn(2, 3, 4, 6)
    with Watch([x], 2) as watch:
        folded = x.unflatten(2, (2, 2)).unflatten(4, (3, 2)).permute(0, 1, 3, 5, 2, 4).flatten(4).flatten(2, 3)
        made, mixed = F.conv2d(folded, torch.ones(5, 3, 1, 1)), F.conv2d(folded, torch.ones(5, 3, 3, 3), padding=1)
    assert watch.dims(made)[2:] == watch.dims(folded)[2:]
    assert watch.dims(mixed)[2:] != watch.dims(folded)[2:]
    with Watch([x], 2) as watch:
        turned = F.conv2d(F.layer_norm(x, (6,)), torch.ones(5, 3, 1, 1))
    assert watch.dims(turned) is None  # channels are last there
