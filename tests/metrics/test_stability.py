"""Stability: literal references, laws, neighbours of another decision, company."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.metrics import (
    local_lipschitz_estimate,
    relative_input_stability,
    relative_output_stability,
    relative_representation_stability,
    stability,
)
from captum_extract_aggregate.metrics.stability import noise_fields, seen_by
from tests.conftest import SmallNet
from tests.networks import Encoder
from tests.reference import stability as reference


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return SmallNet().double().eval()


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_literal_references():
    """The largest of several neighbours counts; zeros count as eps; nothing depends on company."""
    x, maps = drawn(3, 2, 4, 4), drawn(3, 1, 4, 4, seed=1)
    near, near_maps = x + drawn(5, 3, 2, 4, 4, seed=2) * 0.1, maps + drawn(5, 3, 1, 4, 4, seed=3) * 0.1
    outputs, near_outputs = drawn(3, 4), drawn(5, 3, 4, seed=4)
    x[0, 0, 0, 0] = maps[1, 0, 2, 2] = 0
    maps[2] *= 1e6
    for ours, slow, of, near_of in (
        (relative_input_stability, reference.relative_input_stability, x, near),
        (relative_output_stability, reference.relative_output_stability, outputs, near_outputs),
        (relative_representation_stability, reference.relative_input_stability, outputs, near_outputs),
        (local_lipschitz_estimate, reference.local_lipschitz_estimate, x, near),
    ):
        more = () if ours is local_lipschitz_estimate else (1e-4,)
        found = ours(of, near_of, maps, near_maps, *more)
        cases = [[(of[i], near_of[s, i], maps[i], near_maps[s, i]) for i in range(3)] for s in range(5)]
        values = [[slow(*(t.numpy() for t in case), *more) for case in row] for row in cases]
        np.testing.assert_allclose(found.numpy(), np.max(values, 0), rtol=1e-10)
        one = ours(of, near_of[0], maps, near_maps[0], *more)
        np.testing.assert_allclose(one.numpy(), values[0], rtol=1e-10)
        assert not ours(of, near_of[0], maps, maps, *more).any()


def test_scale():
    x, maps = drawn(2, 5), drawn(2, 5, seed=1)
    near, near_maps = x + 0.1, maps + 0.1
    expected = relative_input_stability(x, near, maps, near_maps)
    for scale in (1e-9, 1e6):
        torch.testing.assert_close(relative_input_stability(x, near, maps * scale, near_maps * scale), expected)
        lipschitz = local_lipschitz_estimate(x, near, maps * scale, near_maps * scale)
        torch.testing.assert_close(lipschitz, local_lipschitz_estimate(x, near, maps, near_maps) * scale)
    assert local_lipschitz_estimate(x, x, maps, near_maps).isnan().all()
    unmoved = relative_input_stability(x, x, maps, near_maps)  # as if moved by eps
    torch.testing.assert_close(unmoved * 1e-6, expected * ((x - near) / x).norm(dim=1))


def test_a_linear_map_of_the_input_has_its_lipschitz_constant(net):
    x = drawn(3, 3, 6, 6)
    found = stability(lambda t, target: 5 * t, lambda t: net(t) * 0 + torch.arange(5.0), x, target=1, n_samples=3)
    assert found.neighbours.tolist() == [3, 3, 3]
    single = x[:, :1]
    flat = stability(lambda t, target: 5 * t, Steady(), single, target=1, n_samples=3)
    torch.testing.assert_close(flat.lipschitz, torch.full((3,), 5.0, dtype=torch.float64))
    torch.testing.assert_close(flat.relative_input, torch.ones(3, dtype=torch.float64))


class Steady(nn.Module):
    def forward(self, x):
        return torch.stack([x.flatten(1).sum(1) * 0 + 1, x.flatten(1).sum(1) * 0], 1)


def test_neighbours_of_another_decision_do_not_count():
    class Bright(nn.Module):
        def forward(self, x):
            total = x.flatten(1).sum(1)
            return torch.stack([total, -total], 1)

    x = torch.tensor([[[[1.0, 1.0]]], [[[0.03, 0.0]]], [[[1e-9, 0.0]]]], dtype=torch.float64)
    found = stability(lambda t, target: t, Bright(), x, target=0, n_samples=8, radius=0.05)
    assert found.neighbours[0] == 8
    assert 0 < found.neighbours[1] < 8
    never = stability(lambda t, target: t, lambda t: torch.cat([t.flatten(1)[:, :1], 1 - t.flatten(1)[:, :1] * 2], 1) *
                      (1 if bool((t == x).all()) else -1), x, target=0, n_samples=2)  # fmt: skip
    assert never.lipschitz.isnan().all()
    assert never.neighbours.tolist() == [0, 0, 0]


def test_methods_alone_and_in_company(net):
    x = drawn(3, 3, 8, 8)
    method = cea.LinearApproximation(net, "conv3")
    together = stability(method, net, x, target=[0, 1, 2], n_samples=3, layer="conv3")
    assert all(t.isfinite().all() for t in together)
    for i in range(3):
        alone = stability(method, net, x[i : i + 1], target=i, n_samples=3, layer=net.conv3)
        for a, b in zip(alone, together):
            torch.testing.assert_close(a, b[i : i + 1])
    other = stability(method, net, x, target=[0, 1, 2], n_samples=3, seed=1)
    assert not torch.equal(other.lipschitz, together.lipschitz)
    assert other.relative_representation.isnan().all()  # no layer was named


def test_a_layer_s_outputs_are_kept_of_the_forwards_there_are(net):
    x, forwards = drawn(2, 3, 8, 8), []

    class Writing(nn.Module):  # what follows the layer writes to its output
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3).double()

        def forward(self, x):
            forwards.append(1)
            return self.layer(x).relu_().flatten(1)[:, ::29]

    model = Writing()
    noises = noise_fields(x, 3, 0.05, seed=7, uniform=True)
    target = model(x).argmax(1)
    same = [(model(x + noise).argmax(1) == target) for noise in noises]
    forwards.clear()
    found = stability(lambda t, target: t * t, model, x, target, n_samples=3, seed=7, eps=1e-4, layer="layer")
    assert len(forwards) == 4
    assert not model.layer._forward_hooks
    for i in range(2):
        values = [
            reference.relative_input_stability(
                *(t.detach().numpy() for t in (model.layer(x[i]), model.layer(x[i] + noise))),
                *(t.numpy() for t in ((x[i] ** 2).sum(0), ((x[i] + noise) ** 2).sum(0))),
                1e-4,
            )
            for noise, kept in zip(noises, same)
            if kept[i]
        ]
        assert found.relative_representation[i].item() == pytest.approx(max(values), rel=1e-8)


def test_noise():
    x = torch.zeros(4, 3, 20, 20)
    fields = noise_fields(x, 2, 0.5, seed=0, uniform=True)
    assert [f.shape for f in fields] == [(3, 20, 20)] * 2
    assert fields[0].abs().max() <= 0.5
    assert fields[0].std().item() == pytest.approx(0.5 / math.sqrt(3), rel=0.1)
    assert noise_fields(x, 1, 2.0, seed=0)[0].std().item() == pytest.approx(2, rel=0.1)


def test_wrong_uses(net):
    x = drawn(2, 3, 8, 8)
    for run, error, message in (
        (lambda: relative_input_stability(x, x[:1], x, x), ValueError, r"x has shape .* that of the neighbours"),
        (lambda: relative_output_stability(x, x, x, x[:, :1]), ValueError, "maps has shape"),
        (lambda: local_lipschitz_estimate(x[0, 0, 0], x, x, x), TypeError, r"x is \(8,\)"),
        (lambda: stability(lambda t: t, net, x, n_samples=0), ValueError, "n_samples is 0"),
        (lambda: stability(lambda t: t, net, x, radius=0), ValueError, "radius is 0"),
        (lambda: stability(lambda t: t, net, x, layer="conv9"), ValueError, "layer is 'conv9'"),
        (lambda: stability(lambda t: t, net, x, layer=nn.ReLU()), ValueError, "ran 0 times"),
        (lambda: stability(lambda t: t, lambda t: net(t), x, layer="conv3"), TypeError, "layer is the name 'conv3'"),
        (lambda: stability(lambda t: t, SmallNet().train(), x), ValueError, "eval mode"),
    ):
        with pytest.raises(error, match=message):
            run()


def test_a_fused_encoder_hides_no_representation():
    torch.manual_seed(0)
    model, x = Encoder().eval(), torch.randn(2, 5, 4)
    expected = []
    layer = model.encoder.layers[1].norm1
    handle = layer.register_forward_hook(lambda _m, _a, out: expected.append(out.detach().flatten(1)))
    model(x.requires_grad_())  # unfused, as gradients are asked for
    handle.remove()
    found = seen_by(model, x.detach(), "encoder.layers.1.norm1")
    torch.testing.assert_close(found.representation, expected[0])
