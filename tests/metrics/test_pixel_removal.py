"""Pixel removal: the literal definition, closed forms, the engine."""

import captum.attr
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.metrics import pixel_removal, removal_contrast
from tests.conftest import SmallNet
from tests.reference import metrics as reference


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return SmallNet().double().eval()


def examples(n=5, size=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, size, size, dtype=torch.float64, generator=generator) * 2
    return x, torch.rand(n, 1, size, size, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("order", ["least", "most"])
@pytest.mark.parametrize("step", [1, 3, 100])
@pytest.mark.parametrize("baseline", [0.0, 0.7, "tensor"])
def test_literal_reference(net, order, step, baseline):
    x, maps = examples()
    maps = (maps * 5).round()  # ties: the first pixel goes first
    base = torch.linspace(-1, 1, 3, dtype=torch.float64)[None, :, None, None] if baseline == "tensor" else baseline
    decide = reference.decision(net)
    expected = [
        reference.pixel_removal(
            decide, one.numpy(), m[0].numpy(), order, base[0].numpy() if baseline == "tensor" else base, step
        )
        for one, m in zip(x, maps)
    ]
    for batch in (None, 1, 2):
        got = pixel_removal(net, x, maps, order, base, step, max_examples_per_batch=batch)
        np.testing.assert_allclose(got.e.numpy(), [e.e for e in expected], rtol=1e-10)
        assert got.pixels.tolist() == [e.pixels for e in expected]
        assert got.flipped.tolist() == [e.flipped for e in expected]


class Linear(nn.Module):
    """Class 0 while the sum of the pixels exceeds a threshold."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold

    def forward(self, x):
        score = x.sum((1, 2, 3)) - self.threshold
        return torch.stack([score, -score], 1)


@given(size=st.integers(2, 9), share=st.floats(0.05, 0.95))
@settings(max_examples=30)
def test_a_linear_model_in_closed_form(size, share):
    """Of equal pixels the flip comes when fewer than the threshold are left, whatever the map says."""
    n = size * size
    x = torch.ones(1, 1, size, size)
    threshold = n * share
    expected = next(k for k in range(1, n + 1) if n - k - threshold < 0)
    for order in ("least", "most"):
        got = pixel_removal(Linear(threshold), x, torch.rand(1, 1, size, size), order)
        assert got.pixels.item() == expected
        assert got.e.item() == pytest.approx(1 - ((n - expected) / n) ** 0.5)
        assert got.flipped.item()


def test_the_first_flip_counts_and_some_never_flip():
    class Wavering(nn.Module):
        def forward(self, x):  # class 1 with 3 to 5 pixels gone, class 0 with 6 and more
            gone = (x == 0).all(1).sum((1, 2))
            other = ((gone >= 3) & (gone <= 5)).float()
            return torch.stack([1 - other, other], 1)

    x = torch.ones(2, 1, 4, 4)
    got = pixel_removal(Wavering(), x, torch.rand(2, 1, 4, 4))
    assert got.pixels.tolist() == [3, 3]
    assert pixel_removal(Wavering(), x, torch.rand(2, 1, 4, 4), step=7).flipped.tolist() == [False, False]
    constant = pixel_removal(lambda t: t.new_tensor([[1.0, 0.0]]).expand(len(t), 2), x, torch.rand(2, 1, 4, 4))
    assert constant.flipped.tolist() == [False, False]
    assert constant.pixels.tolist() == [16, 16]
    assert constant.e.tolist() == [1, 1]
    black = pixel_removal(Linear(-1), torch.zeros(1, 1, 4, 4), torch.rand(1, 1, 4, 4))
    assert black.e.isnan().all()


def test_permutations_and_monotone_transforms(net):
    x, maps = examples(6)
    got = pixel_removal(net, x, maps, "most")
    order = [3, 1, 5, 0, 2, 4]
    moved = pixel_removal(net, x[order], maps[order], "most", max_examples_per_batch=2)
    for a, b in zip(got, moved):
        torch.testing.assert_close(a[order], b)
    for a, b in zip(got, pixel_removal(net, x, maps.exp() * 7 - 3, "most")):
        torch.testing.assert_close(a, b)
    for a, b in zip(got, pixel_removal(net, x, -maps, "least")):
        torch.testing.assert_close(a, b)
    constant = pixel_removal(net, x, torch.ones_like(maps))
    rows = pixel_removal(net, x, torch.arange(64.0).reshape(1, 1, 8, 8).expand(6, -1, -1, -1))
    torch.testing.assert_close(constant.e, rows.e)  # a constant map removes row by row


def test_the_forward_runs_full(net):
    """Whoever has flipped leaves, and the next takes the place: as few forwards as the removals need."""
    x, maps = examples(12)
    sizes = []

    def forward(t):
        sizes.append(len(t))
        return net(t)

    got = pixel_removal(forward, x, maps, max_examples_per_batch=4)
    decisions, removals = sizes[:3], sizes[3:]
    assert decisions == [4, 4, 4]
    needed = got.pixels.sum().item()
    assert sum(removals) == needed  # not one example runs after its flip
    full = [n for n in removals if n == 4]
    assert len(full) * 4 >= needed - 3 * got.pixels.max().item()
    assert sorted(removals, reverse=True) == removals


def test_extra_arguments_and_maps_of_layers(net):
    x, _ = examples(4)
    scale = torch.tensor([1.0, -1.0, 2.0, 0.5], dtype=torch.float64)[:, None]
    maps = cea.NormGrad(net, net.conv3).attribute(x, 1, additional_forward_args=scale)
    together = pixel_removal(net, x, maps, additional_forward_args=scale, max_examples_per_batch=3)
    for i in range(4):
        alone = pixel_removal(net, x[i : i + 1], maps[i : i + 1], additional_forward_args=scale[i : i + 1])
        assert [t[i].item() for t in together] == [t.item() for t in alone]
    captums = captum.attr.Saliency(net).attribute(x, target=1)
    assert pixel_removal(net, x, captums).e.shape == (4,)


def test_contrast_reference(net):
    x, maps = examples(4)
    pool = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    decide = reference.decision(net)
    upsampled = [reference.upsample(p[0], (8, 8)) for p in pool]
    got = removal_contrast(net, x, maps, pool, n_shuffles=3, max_examples_per_batch=5)
    for i in range(4):
        one = x[i].numpy(), maps[i, 0].numpy()
        minus = reference.removal_contrast(decide, *one, upsampled, "least")
        plus = reference.removal_contrast(decide, *one, upsampled, "most")
        assert got.delta_minus[i].item() == pytest.approx(minus, abs=1e-10)
        assert got.delta_plus[i].item() == pytest.approx(plus, abs=1e-10)
        assert got.delta[i].item() == pytest.approx(minus - plus, abs=1e-10)
    torch.testing.assert_close(got.own_minus.e, pixel_removal(net, x, maps).e)


def test_the_pool_is_never_the_image_itself(net):
    """With all others drawn, each example is contrasted with exactly the others."""
    x, maps = examples(3)
    got = removal_contrast(net, x, maps, n_shuffles=2)
    for i in range(3):
        others = maps[[j for j in range(3) if j != i]]
        single = removal_contrast(net, x[i : i + 1], maps[i : i + 1], pool=others, n_shuffles=2)
        assert got.delta_minus[i].item() == pytest.approx(single.delta_minus.item(), abs=1e-12)
    same = removal_contrast(net, x, maps[:1].expand(3, -1, -1, -1), n_shuffles=2)
    assert same.delta.abs().max() < 1e-12
    draws = [removal_contrast(net, x, maps, seed=seed).delta_minus for seed in (0, 0, 1, 2, 3)]
    assert torch.equal(draws[0], draws[1])
    assert not all(torch.equal(draws[0], d) for d in draws[2:])


def test_a_good_map_beats_a_random_one_on_scenes():
    model = cea.load_scene_model("vgg")
    images = torch.stack([image for image, _ in cea.DigitScenes(n=4)])
    maps = cea.LinearApproximation(model, "features.13").attribute(images, target=model(images).argmax(1))
    contrast = removal_contrast(model, images, maps, step=64, n_shuffles=2)
    assert contrast.delta_minus.mean() > 0 > contrast.delta_plus.mean()
    assert contrast.delta.mean() > 0.1


def test_wrong_uses(net, capsys):
    x, maps = examples(2)
    for run, error, message in (
        (lambda: pixel_removal(net, x, maps, "first"), ValueError, "order is 'first'"),
        (lambda: pixel_removal(net, x, maps, step=0), ValueError, "step is 0"),
        (lambda: pixel_removal(net, x, maps[:1]), ValueError, "for 2 examples"),
        (lambda: pixel_removal(net, x[0], maps), ValueError, "for 3 examples"),
        (lambda: pixel_removal(net, x[0, 0, 0], maps), TypeError, "N x C x H x W"),
        (lambda: pixel_removal(net, x, maps, max_examples_per_batch=-1), ValueError, "max_examples_per_batch"),
        (lambda: pixel_removal(lambda t: net(t)[:1, 0], x, maps), ValueError, "examples x classes"),
        (lambda: removal_contrast(net, x, maps, n_shuffles=2), ValueError, "1 maps of other images"),
        (lambda: removal_contrast(net, x, maps, pool=[1]), TypeError, "maps of other images"),
        (lambda: pixel_removal(net, x, maps, baselines=torch.zeros(7)), ValueError, "baselines"),
    ):
        with pytest.raises(error, match=message):
            run()
    pixel_removal(net, x, maps, show_progress=True)
    assert "Pixel removal" in capsys.readouterr().err


def test_memory_formats(net):
    """What is written to is the picture, however its memory lies."""
    x, maps = examples(4)
    expected = pixel_removal(net, x, maps, step=4)
    for other in (
        x.contiguous(memory_format=torch.channels_last),
        x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    ):
        for batch in (None, 2):
            got = pixel_removal(net, other, maps, step=4, max_examples_per_batch=batch)
            assert torch.equal(got.pixels, expected.pixels)


def test_arguments_in_lists_and_what_is_refused(net):
    x, maps = examples(4)
    scale = [1.0, -1.0, 2.0, 0.5]

    def forward(t, scales):
        return net(t) * torch.tensor(scales, dtype=t.dtype)[:, None]

    together = pixel_removal(forward, x, maps, additional_forward_args=(scale,), max_examples_per_batch=2)
    for i in range(4):
        alone = pixel_removal(forward, x[i : i + 1], maps[i : i + 1], additional_forward_args=(scale[i : i + 1],))
        assert [t[i].item() for t in together] == [t.item() for t in alone]
    for run, error, message in (
        (lambda: pixel_removal(net, x, maps * torch.nan), ValueError, "in no order"),
        (lambda: removal_contrast(net, x, maps, pool=maps * torch.inf), ValueError, "in no order"),
        (lambda: pixel_removal(net, (x * 9).to(torch.uint8), maps), TypeError, "floating point"),
        (lambda: pixel_removal(net, x, maps, baselines="a"), TypeError, "baselines is a str"),
        (lambda: pixel_removal(SmallNet().double().train(), x, maps), ValueError, "eval mode"),
    ):
        with pytest.raises(error, match=message):
            run()
    assert pixel_removal(net, x, (maps * 9).int()).e.shape == (4,)
