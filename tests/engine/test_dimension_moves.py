"""Operations that move dimensions: the grid comes back from any sequence of tokens."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from captum_extract_aggregate._engine.arrangements import at_positions
from captum_extract_aggregate._engine.dimensions import Watch
from captum_extract_aggregate._engine.layout import to_channels_first
from captum_extract_aggregate._engine.parts import Part
from captum_extract_aggregate._engine.surroundings import Surroundings


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


@given(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), st.permutations(range(4)))
def test_what_was_rolled_and_cut_goes_back_too(shifts, order):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 6)
    with torch.no_grad(), Watch([x], 2) as watch:
        expected = nn.Conv2d(3, 5, 1)(x)
        cut = expected.roll(shifts, dims=(2, -1)).unflatten(2, (2, 2)).unflatten(4, (3, 2))
        windows = cut.permute(*(2 + i for i in order), 0, 1).flatten(0, 2)
        assert torch.equal(at_positions(windows, watch.dims(windows), 2), expected)
        back = torch.roll(expected.roll(shifts, dims=(2, 3)), tuple(-s for s in shifts), (2, 3))
        assert watch.dims(back) == watch.dims(expected)
        assert watch.dims(expected.roll(1)) is None  # over all that is flattened


@pytest.mark.parametrize("examples", [1, 2])
def test_copies_of_an_example_stand_beside_it(examples):
    x = torch.randn(examples, 3, 4, 4)
    batch = (Part("batch", 2),) if examples == 2 else ()
    with Watch([x], examples) as watch:
        behind, before, tiled = x.repeat_interleave(5, 0), x.repeat(5, 1, 1, 1), x.tile(5, 1, 1, 1)
    for t, is_behind in ((behind, True), (before, False), (tiled, False)):
        dim, *rest = watch.dims(t)
        copies = dim[-1:] if is_behind else dim[:1]
        assert copies[0].kind == "axis"
        assert dim == ((*batch, *copies) if is_behind else (*copies, *batch))
        assert tuple(rest) == watch.dims(x)[1:]
