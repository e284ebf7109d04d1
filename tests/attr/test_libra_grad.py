"""Balanced gradients: what they are, that they are complete, and any method of them."""

from __future__ import annotations

import math

import captum.attr
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.metrics import completeness_gap
from tests.faults import snapshot
from tests.networks import Tables
from tests.reference.balanced import Fast, Transformer


def _same_network(kind, held=False):
    torch.manual_seed(3)
    return kind(held).double().eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def _gradient(model, x, target):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x)[:, target].sum(), x)[0]


@pytest.mark.parametrize("kind", [Transformer, Fast])
def test_gradients_are_those_of_a_network_that_holds_its_gates(kind, images):
    expected = _gradient(_same_network(Transformer, held=True), images, 1)
    got = cea.LibraGrad(captum.attr.Saliency(_same_network(kind))).attribute(images, target=1, abs=False)
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)
    assert not torch.allclose(_gradient(_same_network(Transformer), images, 1), expected, rtol=0.1)


def test_scores_are_found_in_outputs_for_captums_methods_too(images):
    model = _same_network(Transformer)
    wrapped = model.register_forward_hook(lambda module, args, output: {"logits": output, "other": args[0]})
    got = cea.LibraGrad(captum.attr.InputXGradient(model)).attribute(images, target=1)
    wrapped.remove()
    assert torch.equal(got, cea.LibraGrad(captum.attr.InputXGradient(model)).attribute(images, target=1))


def test_a_fault_leaves_nothing_behind_where_captum_runs(images):
    model = _same_network(Transformer)
    before = snapshot(model, images)

    def fail(*_):
        raise KeyboardInterrupt

    handle = model.register_forward_hook(fail)
    for method in (captum.attr.Saliency(model), captum.attr.LayerGradCam(model, model.blocks[0])):
        with pytest.raises(KeyboardInterrupt):
            cea.LibraGrad(method).attribute(images, target=1)
    handle.remove()
    assert snapshot(model, images) == before


def test_a_method_with_an_attribute_of_its_own_is_refused(small_net):
    class Positive(cea.NormGrad):
        def attribute(self, *args, **kwargs):
            return super().attribute(*args, **kwargs).clamp(min=0)

    with pytest.raises(TypeError, match="Positive, which has an attribute of its own"):
        cea.LibraGrad(Positive(small_net, "conv2"))


@pytest.mark.parametrize("layer", [None, "patches", "blocks.0", "blocks.1"])
def test_a_score_is_activities_and_biases(layer, images):
    model = _same_network(Transformer)
    method = cea.LibraGrad(cea.ActivityAttribution(model, layer))
    delta = method.compute_convergence_delta(images, target=1)
    assert (delta / model(images)[:, 1]).abs().max() < 1e-9
    plain = cea.ActivityAttribution(model, layer).compute_convergence_delta(images, target=1)
    assert (plain / model(images)[:, 1]).abs().min() > 1e-3


def test_a_layer_that_others_bypass_is_no_cut(images):
    delta = cea.LibraGrad(cea.ActivityAttribution(_same_network(Transformer), "blocks.0.up"))
    with pytest.warns(UserWarning, match="bypassed by parallel branches"):
        assert delta.compute_convergence_delta(images, target=1).isnan().all()


class _Of(nn.Module):
    """A function between two linear layers."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.function = nn.Linear(4, 12), nn.LazyLinear(2), function
        self.other = nn.Linear(4, 12)

    def forward(self, x):
        return self.last(self.function(self.first(x)).flatten(1))


def _rms(y):
    return y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)


def _norm_by_var(y):
    var, mean = torch.var_mean(y, -1, keepdim=True)
    return (y - mean) / torch.sqrt(var + 1e-6)


def _cosine_attention(y):
    q, k, v = y.reshape(len(y), 3, 2, 2).unbind(1)
    weights = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * 4.6
    return (weights + torch.ones(2, 2).tril()).softmax(-1) @ v


def _masked(y):
    q = y.reshape(len(y), 3, 4)
    logits = (q @ q.mT).masked_fill(torch.ones(3, 3).triu(1).bool(), -math.inf)
    return torch.einsum("bij,bjk->bik", logits.softmax(-1), q)


def _talking(y):
    q = y.reshape(len(y), 2, 2, 3)
    weights = F.conv2d((q @ q.mT).softmax(-1), torch.ones(2, 2, 1, 1, dtype=y.dtype), torch.ones(2, dtype=y.dtype))
    return weights @ q


def _normed_by_sum(y):
    q = F.relu(y.reshape(len(y), 3, 4)) + 0.1
    return q / q.sum(-1, keepdim=True)


def _written_into_a_view(y):
    q = F.linear(y.reshape(len(y), 3, 4), torch.ones(4, 4), torch.arange(4.0))  # of three dimensions: a view
    q.add_(torch.arange(12.0).reshape(3, 4))
    q[:, 1].add_(2)
    return torch.relu(q - 3)


def _view_written_into(y):
    q = F.linear(y.reshape(len(y), 3, 4), torch.ones(4, 4), torch.arange(4.0))
    return q[:, :2].mul_(0.5).add_(1)


def _inplace(y):
    y = y.reshape(len(y), 3, 4).clone()
    y[:, 0] = 0.5
    y += 1
    return F.silu(y, inplace=True)


FUNCTIONS = {
    "gelu": F.gelu,
    "gelu by tanh": lambda y: F.gelu(y, approximate="tanh"),
    "written gelu": lambda y: 0.5 * y * (1 + torch.tanh(0.8 * (y + 0.04 * torch.pow(y, 3)))),
    "silu": F.silu,
    "written silu": lambda y: y * torch.sigmoid(y),
    "mish": F.mish,
    "written mish": lambda y: y * torch.tanh(F.softplus(y)),
    "hardswish": F.hardswish,
    "elu": F.elu,
    "selu": F.selu,
    "tanh": torch.tanh,
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "clamp": lambda y: y.clamp(-0.3, 0.4),
    "leaky": F.leaky_relu,
    "square": torch.square,
    "glu": F.glu,
    "geglu": lambda y: F.gelu(y[:, :6]) * y[:, 6:],
    "two signals": lambda y: y[:, :6] * y[:, 6:],
    "a signal by itself": lambda y: y * y,
    "linear attention": lambda y: (lambda q: (F.relu(q) @ F.relu(q).mT) @ q)(y.reshape(len(y), 3, 4)),
    "gate": lambda y: y * F.hardsigmoid(y.mean(-1, keepdim=True)),
    "written gate": lambda y: y * (F.relu6(y.mean(-1, keepdim=True) + 3) / 6),
    "layer norm": lambda y: F.layer_norm(y, (12,), torch.arange(12.0), torch.ones(12)),
    "group norm": lambda y: F.group_norm(y, 3, torch.arange(12.0), torch.ones(12)),
    "rms norm": _rms,
    "norm by variance": _norm_by_var,
    "normalize": F.normalize,
    "by its norm": lambda y: y / y.norm(dim=-1, keepdim=True).clamp_min(1e-6),
    "cosine attention": _cosine_attention,
    "masked attention": _masked,
    "talking heads": _talking,
    "where": lambda y: torch.where(y > 0.2, y, torch.full_like(y, 0.2)),
    "stacked": lambda y: torch.stack([y, torch.ones_like(y), F.pad(y[:, 1:], (0, 1), value=2.0)], 1),
    "in place": _inplace,
    "divided by its sum": _normed_by_sum,
    "written into a view": _written_into_a_view,
    "a view written into": _view_written_into,
    "linear attention, normed": lambda y: (lambda q: (q @ q.mT @ q) / (q @ q.mT).sum(-1, keepdim=True))(
        F.relu(y.reshape(len(y), 3, 4))
    ),
    "maximum": lambda y: torch.maximum(y[:, :6], y[:, 6:]),
    "addmm": lambda y: torch.addmm(torch.ones(12), y, torch.ones(12, 12).triu()),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_each_function_gives_adds_up(name):
    torch.set_default_dtype(torch.float64)
    try:
        model = _Of(FUNCTIONS[name]).double()
        x = torch.randn(3, 4)
        model(x)
        delta = cea.LibraGrad(cea.ActivityAttribution(model, None)).compute_convergence_delta(x, target=1)
        assert (delta / model(x)[:, 1]).abs().max() < 1e-9
    finally:
        torch.set_default_dtype(torch.float32)


def test_networks_of_relus_have_the_plain_gradient_bit_for_bit():
    torch.manual_seed(0)
    model = torchvision.models.resnet18().eval()
    x = torch.randn(2, 3, 64, 64)
    for method in (cea.NormGrad(model, ["layer2", "layer4"]), cea.GradCAM(model, ["layer3"])):
        for got, expected in zip(cea.LibraGrad(method).attribute(x, target=3), method.attribute(x, target=3)):
            assert torch.equal(got, expected)


def test_scores_are_the_models_bit_for_bit(images):
    model = _same_network(Fast)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    method = cea.LibraGrad(cea.NormGrad(model, "blocks.0"))
    (evidence,) = method.run_pass(images, [], None, [1])
    assert torch.equal(evidence.scores, model(images)[:, 1])
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_captums_methods_are_complete(images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.GELU(), nn.Flatten(), nn.Linear(144, 3, bias=False))
    model = model.double()
    for make in (captum.attr.InputXGradient, lambda m: cea.ActivityAttribution(m, None)):
        maps = cea.LibraGrad(make(model)).attribute(images, target=2)
        assert completeness_gap(model, images, maps, target=2).max() < 1e-9
    ours = cea.LibraGrad(cea.GradCAM(model, "0")).attribute(images, target=2)
    theirs = cea.LibraGrad(captum.attr.LayerGradCam(model, model[0])).attribute(images, target=2)
    torch.testing.assert_close(ours, theirs.relu())
    integrated = cea.LibraGrad(captum.attr.IntegratedGradients(model)).attribute(images, target=2, n_steps=3)
    assert integrated.shape == images.shape
    assert all(p.requires_grad for p in model.parameters())


def test_the_delta_of_integrated_gradients_is_its_own(images):
    """On a network of ReLUs that of the plain method, else what the mean along the path misses, however many steps."""
    found = {}
    for kind in (nn.ReLU, nn.GELU):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), kind(), nn.Flatten(), nn.Linear(144, 3)).double()
        plain = captum.attr.IntegratedGradients(model)
        for steps in (20, 200):
            how = {"target": 1, "n_steps": steps, "return_convergence_delta": True}
            maps, found[kind, steps] = cea.LibraGrad(plain).attribute(images, **how)
            missing = maps.flatten(1).sum(1) - (model(images) - model(0 * images))[:, 1]
            torch.testing.assert_close(found[kind, steps], missing.detach())
            if kind is nn.ReLU:
                torch.testing.assert_close(found[kind, steps], plain.attribute(images, **how)[1])
    torch.testing.assert_close(found[nn.GELU, 20], found[nn.GELU, 200], rtol=1e-3, atol=1e-6)
    assert found[nn.GELU, 200].abs().min() > 1e-4
    with pytest.raises(TypeError, match="IntegratedGradients, whose delta is of its own maps"):
        cea.LibraGrad(plain).compute_convergence_delta(images, target=1)


def test_several_share_one_forward_and_one_backward(images):
    model, calls = _same_network(Fast), []
    model.register_forward_hook(lambda *_: calls.append(1))
    methods = {
        "norm": cea.LibraGrad(cea.NormGrad(model, "blocks.0")),
        "linear": cea.LibraGrad(cea.LinearApproximation(model, ["blocks.0", "blocks.1"])),
        "plain": cea.NormGrad(model, "blocks.0"),
    }
    alone = {name: method.attribute(images, target=1) for name, method in methods.items()}
    looked = len(calls)
    together = cea.attribute_together(methods, images, target=1)
    assert len(calls) - looked < looked  # the two balanced ones share
    calls.clear()
    methods["linear"].run_pass(images, [], None, [1])
    assert len(calls) == 1
    assert torch.equal(together["norm"], alone["norm"])
    assert torch.equal(together["plain"], alone["plain"])
    assert all(map(torch.equal, together["linear"], alone["linear"]))
    assert not torch.equal(together["norm"], together["plain"])
    per_target = methods["norm"].attribute_per_target(images, [0, 1])
    assert torch.equal(per_target[:, 1], alone["norm"])


def test_a_batch_is_its_examples(images):
    method = cea.LibraGrad(cea.NormGrad(_same_network(Fast), "blocks.0"))
    single = torch.cat([method.attribute(x[None], target=1) for x in images])
    torch.testing.assert_close(method.attribute(images, target=1), single)


def test_meta_saliency_goes_around_and_within(images):
    model = _same_network(Fast)
    inside = cea.LibraGrad(cea.MetaSaliency(cea.NormGrad(model, "blocks.0"), lr=0.1)).attribute(images, target=1)
    around = cea.MetaSaliency(cea.LibraGrad(cea.NormGrad(model, "blocks.0")), lr=0.1).attribute(images, target=1)
    assert torch.equal(inside, around)
    assert not torch.allclose(inside, cea.LibraGrad(cea.NormGrad(model, "blocks.0")).attribute(images, target=1))


def test_combinations_go_around_and_within(images):
    method = cea.NormGrad(_same_network(Fast), ["blocks.0", "blocks.1"])
    inside = cea.LibraGrad(cea.LayerCombination(method)).attribute(images, target=1)
    around = cea.LayerCombination(cea.LibraGrad(method)).attribute(images, target=1)
    assert torch.equal(inside, around)


def test_what_is_not_understood_is_named():
    model = _Of(torch.sin)
    model(torch.randn(1, 4))
    with pytest.raises(ValueError, match=r"cannot balance torch\.sin.*unknown='gradient'"):
        cea.LibraGrad(cea.ActivityAttribution(model, None)).attribute(torch.randn(1, 4), target=0)
    x = torch.randn(1, 4)
    with pytest.warns(UserWarning, match=r"plain gradient of torch\.sin"):
        got = cea.LibraGrad(captum.attr.Saliency(model), unknown="gradient").attribute(x, target=0, abs=False)
    torch.testing.assert_close(got, _gradient(model, x, 0))


def test_probabilities_and_added_gates_are_refused():
    x = torch.randn(2, 4)
    with pytest.raises(ValueError, match="expected the logit"):
        cea.LibraGrad(captum.attr.Saliency(nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1)))).attribute(x, target=0)
    model = _Of(lambda y: y + torch.sigmoid(y))
    model(x)
    with pytest.raises(ValueError, match="gates or normalises"):
        cea.LibraGrad(captum.attr.Saliency(model)).attribute(x, target=0)


@pytest.mark.parametrize(
    "make",
    [lambda m: cea.GuidedBackprop(m), lambda m: captum.attr.DeepLift(m), lambda m: captum.attr.FeatureAblation(m)],
)
def test_methods_that_are_not_of_gradients_are_refused(make):
    with pytest.raises(TypeError, match="expected a method of gradients"):
        cea.LibraGrad(make(nn.Linear(2, 2)))


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match="attribution_method is a Linear"):
        cea.LibraGrad(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="unknown"):
        cea.LibraGrad(captum.attr.Saliency(nn.Linear(2, 2)), unknown="ignore")


def test_what_layers_make_of_no_input_is_no_signal():
    """A table that is added to logits gates, however many of its layers are asked for."""
    torch.manual_seed(0)
    net, x = Tables().double().eval(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    method = cea.LibraGrad(cea.FullGrad(net))
    both = method.attribute(x, target=1)
    alone = torch.cat([method.attribute(x[i : i + 1], target=1) for i in range(2)])
    torch.testing.assert_close(alone, both, rtol=1e-9, atol=1e-12)
    assert (
        cea.LibraGrad(cea.ActivityAttribution(net, "patches")).compute_convergence_delta(x, target=1).abs().max()
        < 1e-10
    )
