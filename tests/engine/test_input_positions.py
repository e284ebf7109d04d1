"""Which of an input's values lie where: told by evidence, or said, or refused; in every method that is input-sized."""

import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate._engine.input_positions import find_positions
from tests.networks import Strided

# The input's shape without the batch, where its channels are, and the size that is right.
TOLD = {
    "signal": ((12, 500), 1, (500,)),
    "signal, channels last": ((500, 12), 2, (500,)),
    "signal of as many samples as channels": ((12, 12), 1, (12,)),
    "raw audio": ((1, 400), 1, (400,)),
    "raw audio without channels": ((400,), None, (400,)),
    "acceleration, channels last": ((500, 3), 2, (500,)),
    "signal of as many samples as a layer's channels": ((64, 16), 2, (64,)),
    "picture": ((3, 32, 40), 1, (32, 40)),
    "picture, channels last": ((32, 40, 3), 3, (32, 40)),
    "picture without channels": ((32, 40), None, (32, 40)),
    "twelve bands": ((12, 32, 40), 1, (32, 40)),
    "observation of twelve channels": ((64, 68, 12), 3, (64, 68)),
    "observation of six channels": ((32, 36, 6), 3, (32, 36)),
    "volume": ((1, 8, 12, 16), 1, (8, 12, 16)),
    "volume without channels": ((8, 12, 16), None, (8, 12, 16)),
    "clip": ((3, 16, 20, 20), 1, (16, 20, 20)),
    "clip of frames": ((16, 3, 20, 20), 2, (16, 20, 20)),
    "clip of four frames": ((4, 3, 20, 20), 2, (4, 20, 20)),
    "clip of three frames": ((3, 3, 20, 20), 2, (3, 20, 20)),
    "clip, channels last": ((16, 20, 24, 3), 4, (16, 20, 24)),
}


def made(shape, axis, size):
    torch.manual_seed(0)
    channels = 1 if axis is None else shape[axis - 1]
    return Strided(len(size), channels, axis).eval(), torch.randn(2, *shape)


def methods(net, **given):
    return {
        "combination": cea.LayerCombination(cea.LinearApproximation(net, ["a", "b"]), **given),
        "cumulative": cea.CumulativeGradMid(net, ["a", "b"], **given),
        "activity": cea.AggregatedActivity(net, ["a", "b"], **given),
        "fullgrad": cea.FullGrad(net, include_input=False, **given),
    }


@pytest.mark.parametrize("case", TOLD)
def test_maps_have_the_size_of_the_positions(case):
    _, axis, size = TOLD[case]
    net, x = made(*TOLD[case])
    with_channels_first = Strided(len(size), net.a.in_channels, 1).eval()
    with_channels_first.load_state_dict(net.state_dict())
    moved = x.unsqueeze(1) if axis is None else x.movedim(axis, 1)
    expected = methods(with_channels_first, size=size)
    for name, method in methods(net).items():
        got = method.attribute(x, 1)
        assert got.shape == (2, 1, *size), name
        torch.testing.assert_close(got, expected[name].attribute(moved, 1))
        torch.testing.assert_close(cea.attribute_together({name: method}, x, 1)[name], got)


ONLY_THE_SIZE = ("signal of as many samples as channels", "clip of three frames")


@pytest.mark.parametrize("case", [case for case in TOLD if case not in ONLY_THE_SIZE])
def test_the_input_s_own_term_has_its_channels_summed(case):
    _, axis, size = TOLD[case]
    net, x = made(*TOLD[case])
    like, moved = (
        Strided(len(size), net.a.in_channels, 1).eval(),
        x.unsqueeze(1) if axis is None else x.movedim(axis, 1),
    )
    like.load_state_dict(net.state_dict())
    for cls, layers in ((cea.AggregatedActivity, ["a", "b"]), (cea.FullGrad, None)):
        got = cls(net, layers, include_input=True).attribute(x, 1)
        scale = got.abs().max()
        truth = cls(like, layers, include_input=True, size=size).attribute(moved, 1)
        assert (got - truth).abs().max() < 1e-5 * scale


@pytest.mark.parametrize("case", ONLY_THE_SIZE)
def test_where_only_the_size_is_told_the_input_s_own_term_is_refused(case):
    net, x = made(*TOLD[case])
    with pytest.raises(ValueError, match=r"where an input .* has its channels cannot be told"):
        cea.FullGrad(net).attribute(x, 1)


UNTOLD = {
    "twelve features of four samples, or the reverse": ((4, 12), 2, (4,)),
    "samples as many as the first layer's channels": ((16, 24), 2, (16,)),
}


@pytest.mark.parametrize("case", UNTOLD)
def test_what_cannot_be_told_is_refused_until_it_is_said(case):
    *_, size = UNTOLD[case]
    net, x = made(*UNTOLD[case])
    for method in methods(net).values():
        with pytest.raises(ValueError, match=r"nothing tells for sure which.*expected size="):
            method.attribute(x, 1)
    for method in methods(net, size=size).values():
        assert method.attribute(x, 1).shape == (2, 1, *size)
    combined = cea.NormGrad(net, ["a", "b"])
    for layout in ("channels_last", lambda t: t.transpose(1, 2)):
        assert cea.LayerCombination(combined, layout=layout).attribute(x, 1).shape == (2, 1, *size)


def test_of_two_pictures_of_different_size_none_is_taken():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.deep = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x, y):
            return self.left(x).relu().mean((2, 3)) + self.deep(self.right(y).relu()).relu().mean((2, 3))

    net, pair = Two().eval(), (torch.randn(2, 3, 16, 16), torch.randn(2, 3, 20, 32))
    for given, size in (({}, None), ({"size": (20, 32)}, (20, 32))):
        for method in (
            cea.LayerCombination(cea.NormGrad(net, ["right", "deep"]), **given),
            cea.CumulativeGradCAM(net, ["right", "deep"], **given),
            cea.AggregatedActivity(net, ["right", "deep"], include_input=True, **given),
            cea.FullGrad(net, ["right", "deep"], **given),
        ):
            if size is None:
                with pytest.raises(ValueError, match=r"\(16, 16\), \(20, 32\).*expected size="):
                    method.attribute(pair, 1)
            else:
                assert method.attribute(pair, 1).shape == (2, 1, *size)
    same = (pair[1], pair[1])
    assert cea.FullGrad(net).attribute(same, 1).shape == (2, 1, 20, 32)
    both = cea.AggregatedActivity(net, ["right", "deep"], include_input=True).attribute(same, 1)
    without = cea.AggregatedActivity(net, ["right", "deep"]).attribute(same, 1)
    assert (both - without).max() > 1  # each of the two counts


def test_a_picture_and_a_vector():
    x = (torch.randn(2, 7), torch.randn(2, 3, 16, 20))
    assert find_positions(x, [(4, 5)]).size == (16, 20)
    with pytest.raises(ValueError, match="1 position dimensions cannot be brought"):
        find_positions(x, [(7,)])  # the vector's entries are no positions of a picture


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"size": (16, 16, 16, 16)}, "size is"),
        ({"size": (16, 0)}, "size is"),
        ({"size": (16.5, 16)}, "size is"),
        ({"size": 16}, "size is 16"),
        ({"size": "16"}, "and maps have|size is"),
        ({"layout": "last"}, "layout is 'last'"),
        ({"layout": "tokens"}, "layout is 'tokens'"),
    ],
)
def test_mistakes(given, match):
    net = Strided(2, 3, 1)
    with pytest.raises(ValueError, match=match):
        cea.LayerCombination(cea.NormGrad(net, ["a", "b"]), **given).attribute(torch.randn(1, 3, 16, 16), 0)


def test_layout_and_size_that_contradict_the_input():
    x = (torch.randn(2, 3, 16, 20),)
    assert find_positions(x, [(4, 5)], size=(9, 9)).size == (9, 9)
    with pytest.raises(ValueError, match="cannot be told"):
        find_positions(x, [(4, 5)], size=(9, 9)).arranged(x[0])
    moved = find_positions((x[0].movedim(1, 3),), [(4, 5)], layout=lambda t: t.movedim(3, 1))
    assert torch.equal(moved.elements(x[0].movedim(1, 3))[:, 0], torch.arange(3))
    with pytest.raises(ValueError, match="expected one of the two"):
        find_positions(x, [(4, 5)], layout=lambda t: t, size=(9, 9))
    with pytest.raises(ValueError, match="layout\\(inputs\\) returned"):
        find_positions(x, [(4, 5)], layout=lambda t: t[0])
    with pytest.raises(ValueError, match="only moves dimensions"):
        find_positions(x, [(4, 5)], layout=lambda t: t[:, :2])
    with pytest.raises(ValueError, match="1 and 2 position dimensions"):
        find_positions(x, [(4, 5), (4,)])
