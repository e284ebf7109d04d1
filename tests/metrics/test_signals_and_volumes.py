"""Measures in one and three dimensions: samples and voxels are pixels, and the map of a sequence is no picture's."""

import captum.attr
import captum.metrics
import numpy as np
import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate import metrics
from tests.networks import Strided
from tests.reference import metrics as reference

# Shape without the batch, where its channels are, and the positions.
INPUTS = {
    "audio": ((1, 30), 1, (30,)),
    "raw audio": ((30,), None, (30,)),
    "leads first": ((12, 30), 1, (30,)),
    "leads last": ((30, 12), 2, (30,)),
    "volume": ((1, 5, 6, 6), 1, (5, 6, 6)),
    "frames": ((7, 2, 5, 5), 2, (7, 5, 5)),
    "observation": ((8, 8, 12), 3, (8, 8)),
}


@pytest.fixture(params=INPUTS)
def case(request):
    """A network that takes the input, inputs, where the channels are, and the positions' size."""
    shape, axis, size = INPUTS[request.param]
    torch.manual_seed(0)
    net = Strided(len(size), 1 if axis is None else shape[axis - 1], axis).double().eval()
    nn.init.normal_(net.fc.weight)
    x = torch.randn(3, *shape, dtype=torch.float64) * 3
    with torch.no_grad():  # decisions that flip
        net.fc.bias -= net(x).mean(0)
    return net, x, axis, size


def moved(x, axis):
    return x.unsqueeze(1) if axis is None else x.movedim(axis, 1)


def upsampled(m, size):
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    return nn.functional.interpolate(m, size, mode=mode, align_corners=False)


@pytest.mark.parametrize("order", ["least", "most"])
def test_removal_takes_positions_with_all_their_channels(case, order):
    net, x, axis, size = case
    maps = cea.LinearApproximation(net, "a").attribute(x, 0)
    like = Strided(len(size), net.a.in_channels, 1).double().eval()
    like.load_state_dict(net.state_dict())
    decide = reference.decision(like)
    pixels = [
        reference.pixel_removal(decide, one.numpy(), m[0].numpy(), order, step=4)
        for one, m in zip(moved(x, axis), upsampled(maps, size))
    ]
    for explained in (maps, maps[:, 0]):  # with a dimension of channels, and without
        got = metrics.pixel_removal(net, x, explained, order, step=4, max_examples_per_batch=2)
        assert got.pixels.tolist() == [e.pixels for e in pixels]
        np.testing.assert_allclose(got.e, [e.e for e in pixels], rtol=1e-9)
    assert got.flipped.any()
    for kind in (torch.int32, torch.bool, torch.float16):
        assert metrics.pixel_removal(net, x, (maps * 100).to(kind), order, step=16).e.shape == (3,)
    alone = metrics.pixel_removal(net, x[:1], maps[:1], order, step=4)
    assert alone.pixels[0] == got.pixels[0]


def test_contrast(case):
    net, x, _, _ = case
    maps = cea.LinearApproximation(net, "a").attribute(x, 0)
    got = metrics.removal_contrast(net, x, maps, n_shuffles=2, step=16)
    assert torch.equal(got.own_minus.e, metrics.pixel_removal(net, x, maps, step=16).e)
    for i in range(3):
        others = maps[[j for j in range(3) if j != i]]
        alone = metrics.removal_contrast(net, x[i : i + 1], maps[i : i + 1], pool=others, n_shuffles=2, step=16)
        assert alone.delta.item() == pytest.approx(got.delta[i].item(), abs=1e-12)


def test_class_sensitivity_and_randomisation(case):
    net, x, axis, size = case
    method = cea.LinearApproximation(net, "b")
    most, least = net(x).argmax(1), net(x).argmin(1)
    pair = [upsampled(method.attribute(x, target), size).flatten(1) for target in (most, least)]
    expected = metrics.spearman(*pair)
    torch.testing.assert_close(metrics.class_sensitivity(method, x, net), expected)
    plain = lambda inputs, target: method.attribute(inputs, target=target)[:, 0]  # noqa: E731
    torch.testing.assert_close(metrics.class_sensitivity(plain, x, net), expected)
    saliency = captum.attr.InputXGradient(net)
    pair = [moved(saliency.attribute(x, target=t).detach(), axis).sum(1) for t in (most, least)]
    torch.testing.assert_close(metrics.class_sensitivity(saliency, x, net), metrics.spearman(*pair))
    _, null = metrics.class_sensitivity(method, x, net, "top_k_intersection", return_null_baseline=True)
    own = tuple(method.attribute(x, 0).shape[2:])
    assert null == metrics.null_baseline("top_k_intersection", own, size)
    found = metrics.parameter_randomization(method, net, x, 0, layers=["fc", "a"])
    assert found.values.shape == (2, 3)
    if len(size) != 2:
        for name in ("hog_spearman", "ssim"):
            with pytest.raises(ValueError, match="HOG and SSIM are of pictures"):
                metrics.class_sensitivity(method, x, net, name)


def test_the_adapter_gives_every_value_its_position_s(case):
    net, x, axis, size = case
    method = cea.NormGrad(net, "a")
    (got,) = metrics.as_input_attribution(method).attribute((x,), target=1)
    assert got.shape == x.shape
    assert got.is_contiguous()
    expected = upsampled(method.attribute(x, 1), size)
    torch.testing.assert_close(moved(got, axis), expected.expand_as(moved(x, axis)))
    usable = metrics.as_input_attribution(method)
    assert captum.metrics.sensitivity_max(usable.attribute, x, target=1, n_perturb_samples=2).shape == (3,)


@pytest.mark.parametrize("size", [(40,), (7, 9, 8)])
@pytest.mark.parametrize("tolerance", [1, 2.5, 15])
def test_pointing(size, tolerance):
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(6, 1, *size, generator=generator)
    masks = torch.rand(6, *size, generator=generator) < 0.03
    expected = [reference.pointing_hit(m[0].numpy(), mask.numpy(), tolerance) for m, mask in zip(maps, masks)]
    assert metrics.pointing_game(maps, masks, tolerance).tolist() == expected
    assert metrics.pointing_game(maps[:, 0], masks, tolerance).tolist() == expected
    low = torch.rand(6, 1, *(3,) * len(size), generator=generator)
    expected = metrics.pointing_game(upsampled(low.double(), size), masks, tolerance)
    assert torch.equal(metrics.pointing_game(low, masks, tolerance), expected)
    assert torch.equal(metrics.pointing_game([m[None] for m in low], masks, tolerance), expected)
    with pytest.raises(TypeError, match="expected a tensor with the mask's dimensions"):
        metrics.pointing_game(maps.unsqueeze(2).expand(-1, -1, 2, *size), masks, tolerance)  # of another dimension
    game = metrics.RestrictedPointingGame(num_classes=1, tolerance=tolerance)
    game.update(maps, list(masks[:, None]), [[0]] * 6)
    assert game.compute()["hits"].tolist() == [int(metrics.pointing_game(maps, masks, tolerance).sum())]
    middle = torch.zeros(1, *size, dtype=torch.bool)
    middle[(0, *(n // 2 for n in size))] = True
    assert metrics.pointing_game(metrics.centre_map(size), middle, 1).tolist() == [True]


def test_where_the_channels_are_is_said_or_refused():
    x = torch.randn(2, 16, 24)
    maps = torch.rand(2, 1, 4)
    forward = lambda t: torch.stack([t.sum((1, 2)), -t.sum((1, 2))], 1)  # noqa: E731
    for run in (metrics.pixel_removal, metrics.removal_contrast):
        with pytest.raises(ValueError, match=r"nothing tells for sure which.*expected size="):
            run(forward, x, maps)
    by_size = metrics.pixel_removal(forward, x, maps, size=(16,))
    by_name = metrics.pixel_removal(forward, x, maps, layout="channels_last")
    by_function = metrics.pixel_removal(forward, x, maps, layout=lambda t: t.transpose(1, 2))
    first = metrics.pixel_removal(forward, x.transpose(1, 2).contiguous(), maps, layout="channels_first")
    for other in (by_name, by_function, first):
        assert all(torch.equal(a, b) for a, b in zip(by_size, other))
    assert by_size.pixels.max() <= 16


def test_complex_maps_are_refused():
    with pytest.raises(TypeError, match="complex"):
        metrics.pixel_removal(lambda t: t.mean((2, 3)), torch.ones(1, 3, 4, 4), torch.ones(1, 1, 4, 4) * 1j)
