"""Perturbation curves: the literal definition, closed forms, forwards counted, company, ends."""

import math
import sys

import numpy as np
import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.metrics import imputers, linear_imputation, perturbation_curve, symmetric_relevance_gain
from tests.conftest import SmallNet
from tests.networks import Strided
from tests.reference import perturbation as reference

IMPUTERS = {
    "constant": reference.constant(0.3),
    "mean": reference.mean,
    "blur": reference.blur,
    "linear": reference.linear_imputation,
}


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = SmallNet().double().eval()
    for p in net.parameters():
        nn.init.normal_(p, std=0.4)
    return net


def examples(n=3, size=6, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, size, size, dtype=torch.float64, generator=generator) * 2
    maps = torch.rand(n, 1, size, size, dtype=torch.float64, generator=generator)
    return x, (maps * 6).round()  # ties: the first pixel comes first


def score(net, target, output):
    def of(image):
        with torch.no_grad():
            scores = net(torch.from_numpy(np.array(image))[None])[0]
        if output == "decision":
            return float(scores.argmax() == target)
        return float((scores.softmax(0) if output == "probability" else scores)[target])

    return of


CASES = [
    (imputer, mode, order)
    for imputer in ("constant", "mean", "linear")
    for mode in ("deletion", "insertion")
    for order in ("most_first", "least_first")
] + [("blur", "insertion", "most_first")]


@pytest.mark.parametrize(("imputer", "mode", "order"), CASES)
def test_literal_reference(net, imputer, mode, order):
    x, maps = examples()
    targets = [1, 0, 3]
    outputs = (("probability", {"step": 7}), ("logit", {"fractions": [0.1, 0.5, 1]}), ("decision", {}))
    for output, steps in outputs[: 1 if imputer == "blur" else 3]:
        counts = reference.step_counts(36, 7) if "step" in steps else None
        shares = steps.get("fractions", [i / 20 for i in range(21)])
        counts = counts or reference.fraction_counts(36, shares)
        found = perturbation_curve(
            net, x, maps, targets, order, mode, imputer=imputer, baseline=0.3, output=output, **steps
        )
        for i, target in enumerate(targets):
            given = score(net, target, output), x[i].numpy(), maps[i, 0].numpy(), counts, order, mode
            expected = reference.perturbation_curve(*given, IMPUTERS[imputer])
            np.testing.assert_allclose(found.scores[i].numpy(), expected, rtol=1e-8, atol=1e-9)
            assert found.areas[i].item() == pytest.approx(reference.area(counts, expected), abs=1e-8)
        assert found.fractions.tolist() == [count / 36 for count in counts]
        assert (found.order, found.mode) == (order, mode)


class Sum(nn.Module):
    """Two classes whose logits are the sum of the pixels, and 0."""

    def forward(self, x):
        total = x.flatten(1).sum(1)
        return torch.stack([total, torch.zeros_like(total)], 1)


def test_by_hand_with_a_short_last_step():
    x = torch.tensor([[[[5.0, 1.0, 2.0], [4.0, 3.0, 0.0]]]])
    given = {"targets": 0, "output": "logit", "step": 4}
    found = perturbation_curve(Sum(), x, x, **given)
    assert found.fractions.tolist() == [0, 4 / 6, 1]
    assert found.scores.tolist() == [[15, 1, 0]]
    assert found.areas.item() == pytest.approx(4 / 6 * 8 + 2 / 6 * 0.5)  # the last trapezoid is half as wide
    assert perturbation_curve(Sum(), x, x, order="least_first", **given).scores.tolist() == [[15, 9, 0]]
    assert perturbation_curve(Sum(), x, x, mode="insertion", **given).scores.tolist() == [[0, 14, 15]]
    gain = symmetric_relevance_gain(Sum(), x, x, **given)
    assert gain.gain.item() == pytest.approx(4 / 6 * 4 + 2 / 6 * 4)
    assert perturbation_curve(Sum(), x, x, 0, fractions=[0.5]).areas.isnan().all()


def test_modes_mirror_each_other(net):
    """Taking out the most salient first is putting in the least salient first, read backwards."""
    x, _ = examples()
    maps = torch.rand(3, 1, 6, 6, dtype=torch.float64)
    for imputer in ("constant", "linear"):
        given = {"targets": [1, 0, 3], "step": 6, "imputer": imputer}
        out = perturbation_curve(net, x, maps, order="most_first", mode="deletion", **given)
        into = perturbation_curve(net, x, maps, order="least_first", mode="insertion", **given)
        torch.testing.assert_close(out.scores.flip(1), into.scores, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(out.areas, into.areas)
        turned = perturbation_curve(net, x, -maps, order="least_first", mode="deletion", **given)
        assert torch.equal(turned.scores, out.scores)
        scaled = maps * torch.tensor([1e-9, 1.0, 1e6], dtype=torch.float64).reshape(3, 1, 1, 1)
        assert torch.equal(perturbation_curve(net, x, scaled, **given).scores, out.scores)


def test_the_gain_of_a_map_turned_round_and_of_noise(net):
    x, _ = examples(4)
    maps = torch.rand(4, 1, 6, 6, dtype=torch.float64)
    found = symmetric_relevance_gain(net, x, maps, step=5, imputer="road")
    whole = {order: perturbation_curve(net, x, maps, None, order, step=5, imputer="road") for order in
             ("least_first", "most_first")}  # fmt: skip
    torch.testing.assert_close(found.least_first.scores, whole["least_first"].scores)
    torch.testing.assert_close(found.gain, whole["least_first"].areas - whole["most_first"].areas)
    turned = symmetric_relevance_gain(net, x, -maps, step=5, imputer="road")
    torch.testing.assert_close(turned.gain, -found.gain)
    ends = symmetric_relevance_gain(net, x, maps, fractions=[0, 1])
    assert not ends.gain.any()
    random = torch.rand(300, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    gains = symmetric_relevance_gain(net, x[:1].expand(300, -1, -1, -1), random, step=9).gain
    assert abs(gains.mean()) < 3 * gains.std() / 300**0.5


def test_one_forward_for_each_step_of_a_batch(net):
    x, maps = examples(5)
    sizes = []

    def forward(t):
        sizes.append(len(t))
        return net(t)

    expected = perturbation_curve(net, x, maps, 1, step=9, imputer="linear")
    for imputer in ("constant", "mean", "linear"):
        sizes.clear()
        perturbation_curve(forward, x, maps, 1, step=9, imputer=imputer, max_examples_per_batch=2)
        assert sizes == [2] * 5 + [2] * 5 + [1] * 5
    found = perturbation_curve(net, x, maps, 1, step=9, imputer="linear", max_examples_per_batch=2)
    torch.testing.assert_close(found.scores, expected.scores)
    sizes.clear()
    perturbation_curve(forward, x, maps, step=9)
    assert sizes == [5] * 6  # and one for the decisions
    sizes.clear()
    symmetric_relevance_gain(forward, x, maps, 1, step=9)
    assert sizes == [5] * (2 * 5 - 2)


def test_inputs_and_model_come_back(net):
    class Writes(nn.Module):
        def forward(self, x):
            return net(x.mul_(2))

    x, maps = examples()
    before = x.clone()
    found = perturbation_curve(Writes(), x, maps, 1, step=9)
    torch.testing.assert_close(found.scores, perturbation_curve(lambda t: net(t * 2), x, maps, 1, step=9).scores)
    assert torch.equal(x, before)
    assert not found.scores.requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("shape", "axis", "size"), [((30, 12), 2, (30,)), ((1, 5, 6, 6), 1, (5, 6, 6)),
                                                     ((8, 8, 12), 3, (8, 8))])  # fmt: skip
def test_signals_volumes_and_channels_elsewhere(shape, axis, size):
    torch.manual_seed(0)
    net = Strided(len(size), shape[axis - 1], axis).double().eval()
    x, maps = torch.randn(2, *shape, dtype=torch.float64), torch.rand(2, 1, *size)
    pixels = math.prod(size)
    for name in ("constant", "linear"):
        found = perturbation_curve(net, x, maps, 0, step=50, imputer=name, output="logit", size=size)
        counts = reference.step_counts(pixels, 50)
        for i in range(2):

            def logit(image):
                return float(net(torch.from_numpy(np.array(image))[None].movedim(1, axis))[0, 0])

            impute = {"constant": reference.constant(0.0), "linear": reference.linear_imputation}[name]
            with torch.no_grad():
                arranged = x[i].movedim(axis - 1, 0).numpy()
                expected = reference.perturbation_curve(
                    logit, arranged, maps[i, 0].numpy(), counts, "most_first", "deletion", impute
                )
            np.testing.assert_allclose(found.scores[i].numpy(), expected, rtol=1e-8, atol=1e-9)


def test_one_output_and_outputs_of_one_s_own(net):
    x, maps = examples()
    single = lambda t: net(t)[:, :1]  # noqa: E731
    with torch.no_grad():
        f = net(x)[:, 0]
    for target in (0, 1):
        found = perturbation_curve(single, x, maps, target, step=36)
        torch.testing.assert_close(found.scores[:, 0], (f if target else -f).sigmoid())
    own = perturbation_curve(net, x, maps, 2, step=36, output=torch.sigmoid)
    with torch.no_grad():
        torch.testing.assert_close(own.scores[:, 0], net(x)[:, 2].sigmoid())
    with pytest.raises(ValueError, match="comes out of a sigmoid"):
        perturbation_curve(lambda t: net(t)[:, 0].sigmoid(), x, maps, 1)


def test_a_function_imputes(net):
    x, maps = examples()
    seen = []

    def impute(x, gone):
        seen.append(gone.sum((1, 2, 3)).tolist())
        return linear_imputation(x, gone)

    found = perturbation_curve(net, x, maps, 1, step=12, imputer=impute)
    assert seen == [[count] * 3 for count in (0, 12, 24, 36)]
    assert torch.equal(found.scores, perturbation_curve(net, x, maps, 1, step=12, imputer="linear").scores)


def test_steps_are_imputed_together(net, monkeypatch):
    """Of few pictures, whose systems leave a CPU's vectors half empty: as many as memory takes, and no more."""
    x, maps = examples()
    expected = perturbation_curve(net, x, maps, 1, step=1, imputer="linear").scores
    solved = []

    def impute(x, gone):
        solved.append(len(x))
        return linear_imputation(x, gone)

    monkeypatch.setitem(imputers.IMPUTERS, "linear", impute)
    for numbers, most in ((0, 1), (7 * x.numel(), 7), (10**9, 32 // 3)):
        solved.clear()
        monkeypatch.setattr(sys.modules[perturbation_curve.__module__], "_NUMBERS", numbers)
        found = perturbation_curve(net, x, maps, 1, step=1, imputer="linear").scores
        assert (max(solved), sum(solved)) == (3 * most, 3 * 37)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_a_model_gets_images_in_a_row_of_memory(net):
    """Whatever an imputer gives, such as pictures that have been height x width x channels."""
    x, maps = examples()
    flat = lambda t: net(t.view(len(t), -1).view(t.shape))  # noqa: E731
    channels_last = lambda x, gone: x.masked_fill(gone, 0).movedim(1, -1).contiguous().movedim(-1, 1)  # noqa: E731
    found = perturbation_curve(flat, x, maps, 1, step=12, imputer=channels_last)
    assert torch.equal(found.scores, perturbation_curve(net, x, maps, 1, step=12, baseline=0).scores)


def test_a_good_map_beats_its_opposite_on_scenes():
    model = cea.load_scene_model("vgg")
    images = torch.stack([image for image, _ in cea.DigitScenes(n=4)])
    maps = cea.LinearApproximation(model, "features.13").attribute(images, target=model(images).argmax(1))
    for imputer in ("constant", "road"):
        found = symmetric_relevance_gain(model, images, maps, fractions=[0, 0.1, 0.5, 0.9, 1], imputer=imputer)
        assert found.gain.mean() > 0.05


def test_plots_and_progress(net, capsys):
    x, maps = examples()
    curve = perturbation_curve(net, x, maps, 1, step=9, show_progress=True)
    assert "Perturbation curve" in capsys.readouterr().err
    ax = curve.plot()
    (line,) = ax.lines
    np.testing.assert_allclose(line.get_xdata(), [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(line.get_ydata(), curve.mean())
    assert len(ax.collections) == 1
    assert perturbation_curve(net, x, maps, 1, mode="insertion").plot(ax, "b") is ax


def test_wrong_uses(net):
    x, maps = examples()
    for given, error, message in (
        ({"order": "most"}, ValueError, "order is 'most', which is unknown; did you mean 'most_first'"),
        ({"mode": "delete"}, ValueError, "mode is 'delete', .* did you mean 'deletion'"),
        ({"output": "logits"}, ValueError, "output is 'logits', .* did you mean 'logit'"),
        ({"output": lambda scores: scores[:, 0]}, TypeError, r"output returned \(3,\) for scores"),
        ({"imputer": "roads"}, ValueError, "imputer is 'roads', .* did you mean 'road'"),
        ({"imputer": lambda x, gone: None}, TypeError, "imputer returned NoneType"),
        ({"baseline": torch.zeros(7)}, ValueError, "baseline has shape"),
        ({"baseline": "black"}, TypeError, "baseline is a str"),
        ({"step": 0}, ValueError, "step is 0"),
        ({"step": 2, "fractions": [0, 1]}, ValueError, "step is 2 and fractions .* expected one of the two"),
        ({"fractions": [0.5, 0.5]}, ValueError, "ascending shares"),
        ({"fractions": [0, 2]}, ValueError, "ascending shares"),
        ({"fractions": 0.5}, ValueError, "ascending shares"),
        ({"targets": 9}, ValueError, "target 9 is out of range"),
        ({"targets": [1, 2]}, ValueError, "target has 2 entries for 3 examples"),
        ({"maps": maps * torch.nan}, ValueError, "in no order"),
        ({"inputs": x.int()}, TypeError, "floating point"),
        ({"model": SmallNet().double().train()}, ValueError, "eval mode"),
        ({"max_examples_per_batch": 0}, ValueError, "max_examples_per_batch is 0"),
    ):
        with pytest.raises(error, match=message):
            perturbation_curve(**({"model": net, "inputs": x, "maps": maps, "targets": 1} | given))
