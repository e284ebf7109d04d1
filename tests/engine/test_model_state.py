"""The model during a pass: frozen, eager, checked, and afterwards as it was."""

import warnings

import captum.attr as captum_attr
import pytest
import torch
import torchvision
from torch import nn
from torch.overrides import TorchFunctionMode

import captum_extract_aggregate as cea
from captum_extract_aggregate._engine.model_state import function_modes, run_within
from tests.conftest import SmallNet
from tests.engine.cases import X


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_modes_and_frozen_parameters(small_net, images, context):
    expected = cea.NormGrad(small_net, small_net.conv3).attribute(images, 1)
    for p in list(small_net.parameters())[::2]:
        p.requires_grad_(False)
    with context():
        got = cea.NormGrad(small_net, small_net.conv3).attribute(images + 0, 1)
        assert torch.is_grad_enabled() == (context is torch.enable_grad)
    assert torch.equal(got, expected)
    assert [p.requires_grad for p in small_net.parameters()] == [False, True] * (len(list(small_net.parameters())) // 2)


def test_compiled_model(small_net, images):
    expected = cea.NormGrad(small_net, small_net.conv3).attribute(images, 1)
    compiled = torch.compile(small_net, backend="eager")
    compiled(images)
    assert torch.equal(cea.NormGrad(compiled, compiled.conv3).attribute(images, 1), expected)
    assert torch.equal(cea.NormGrad(compiled, "conv3").attribute(images, 1), expected)
    assert torch.equal(
        cea.NormGrad(torch.compile(lambda x: small_net(x), backend="eager"), small_net.conv3).attribute(images, 1),
        expected,
    )


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch >= 2.6")
def test_model_compiled_in_place(small_net, images):
    expected = cea.NormGrad(small_net, small_net.conv3).attribute(images, 1)
    small_net.compile(backend="eager")
    small_net(images)
    assert torch.equal(cea.NormGrad(small_net, small_net.conv3).attribute(images, 1), expected)
    assert small_net._compiled_call_impl is not None


class DropsByFunction(nn.Module):
    """No module in it tells."""

    def forward(self, x):
        return nn.functional.dropout(x, 0.5, self.training)


@pytest.mark.parametrize(
    "drops",
    [lambda: nn.Dropout(0.5), lambda: torchvision.ops.StochasticDepth(0.5, "row"), DropsByFunction],
    ids=["dropout", "stochastic depth", "a function"],
)
def test_active_dropout_is_announced_and_the_random_state_restored(drops):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), drops(), nn.Conv2d(4, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x, state = torch.randn(1, 3, 8, 8), torch.get_rng_state()
    with pytest.warns(UserWarning, match="in train mode and draws random numbers"):
        cea.NormGrad(net.train(), net[0]).attribute(x, 0)
    assert torch.equal(torch.get_rng_state(), state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cea.NormGrad(net.eval(), net[0]).attribute(x, 0)
        cea.NormGrad(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0)).train(), "0").attribute(x, (0, 1, 1))


def test_parts_of_a_fused_transformer_layer():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    net = nn.Sequential(nn.Flatten(2), nn.Linear(64, 8), nn.TransformerEncoder(layer, 2)).eval()
    model = lambda x: net(x)[:, :, 0]  # noqa: E731
    part = net[2].layers[0].linear1
    enabled = torch.backends.mha.get_fastpath_enabled()
    got = cea.LinearApproximation(model, part, layout="channels_last").attribute(X.float(), 1)
    theirs = captum_attr.LayerGradientXActivation(model, part).attribute(X.float(), 1).sum(-1).unsqueeze(1)
    assert torch.allclose(got, theirs, rtol=1e-3, atol=1e-6)
    assert torch.backends.mha.get_fastpath_enabled() == enabled


class Tokens(nn.Module):
    """Attention over 4 x 4 tokens, PyTorch's transformer layer or attention by itself, and a layer behind it."""

    def __init__(self, whole_layer):
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 4, 4)
        layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
        self.attention = nn.TransformerEncoder(layer, 2) if whole_layer else layer.self_attn
        self.behind, self.head = nn.Linear(16, 16), nn.Linear(16, 5)
        self.fused = None

    def forward(self, x, mask=None, padding=None):
        t = self.embed(x).flatten(2).transpose(1, 2)
        self.fused = torch.backends.mha.get_fastpath_enabled()
        if isinstance(self.attention, nn.MultiheadAttention):
            t = self.attention(t, t, t, attn_mask=mask, key_padding_mask=padding, need_weights=False)[0]
        else:
            t = self.attention(t, mask, padding)
        return self.head(self.behind(t).relu().mean(1))


@pytest.mark.filterwarnings("ignore:.*nested tensor")
@pytest.mark.parametrize("whole_layer", [True, False])
@pytest.mark.parametrize("kind", ["plain", "mask", "padding"])
def test_attention_is_fused_only_where_that_changes_nothing(whole_layer, kind):
    torch.manual_seed(0)
    net, x = Tokens(whole_layer).eval(), torch.randn(2, 3, 16, 16)
    padding = torch.zeros(2, 16, dtype=torch.bool)
    padding[:, 12:] = True
    extra = {"plain": (None, None), "mask": (torch.randn(16, 16), None), "padding": (None, padding)}[kind]
    got = cea.LinearApproximation(net, "behind").attribute(x, 1, additional_forward_args=extra)
    assert net.fused == (not whole_layer)
    theirs = captum_attr.LayerGradientXActivation(net, net.behind).attribute(x, 1, additional_forward_args=extra)
    assert torch.allclose(got.flatten(1), theirs.sum(-1), rtol=1e-3, atol=1e-6)


class Hidden(nn.Module):
    """Holds its parts in a plain list, where `modules()` does not see them."""

    def __init__(self, part):
        super().__init__()
        self.parts = [part]

    def forward(self, x):
        return self.parts[0](x)


def test_modules_in_a_plain_list():
    net = SmallNet().eval()
    got = cea.NormGrad(Hidden(net), net.conv3).attribute(X.float(), 1)
    assert torch.equal(got, cea.NormGrad(net, net.conv3).attribute(X.float(), 1))
    assert all(p.requires_grad for p in net.parameters())
    with pytest.raises(ValueError, match="train mode"):
        cea.NormGrad(Hidden(net.train()), net.conv3).attribute(X.float(), 1)
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.InstanceNorm2d(4, track_running_stats=True),
        lambda: torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 1)),
        lambda: torch.nn.utils.spectral_norm(nn.Conv2d(4, 4, 1)),
    ],
)
def test_buffers_that_train_mode_updates_are_put_back(layer):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), layer(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
    before = {name: (id(b), b.clone()) for name, b in net.named_buffers()}
    cea.NormGrad(net, net[0]).attribute(X.float(), 1)
    after = dict(net.named_buffers())
    assert all(id(after[name]) == kept and torch.equal(after[name], value) for name, (kept, value) in before.items())


def test_a_model_built_in_inference_mode():
    with torch.inference_mode():
        net = SmallNet().eval()
    flags = [p.requires_grad for p in net.parameters()]
    with pytest.raises(ValueError, match="inference_mode"):
        cea.NormGrad(net, net.conv3).attribute(X.float(), 1)
    assert flags == [p.requires_grad for p in net.parameters()]


@pytest.mark.parametrize("wrap", [lambda c: lambda x: c(x), lambda c: nn.Sequential(c), lambda c: c.forward])
def test_compiled_parts(wrap):
    net = SmallNet().eval()
    expected = cea.NormGrad(net, net.conv3).attribute(X.float(), 1)
    compiled = torch.compile(net, backend="eager")
    compiled(X.float())
    model = wrap(compiled)
    if hasattr(torch.compiler, "set_stance"):
        assert torch.equal(cea.NormGrad(model, net.conv3).attribute(X.float(), 1), expected)
    else:
        try:
            assert torch.equal(cea.NormGrad(model, net.conv3).attribute(X.float(), 1), expected)
        except ValueError as error:
            assert "compile" in str(error)  # noqa: PT017


def test_batches_that_mix_in_eval_mode():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    ).eval()
    with pytest.raises(ValueError, match="batches of one example"):
        cea.NormGrad(net, net[0]).attribute(X.float(), 1)
    assert cea.NormGrad(net, net[0]).attribute(X[:1].float(), 1).shape == (1, 1, 8, 8)


class Hides(nn.Module):
    """Calls a layer that it does not own; which one, its user may change."""

    def __init__(self):
        super().__init__()
        self.conv, self.hidden = nn.Conv2d(3, 3, 1), []

    def forward(self, x):
        x = self.conv(x)
        for layer in self.hidden:
            x = layer(x)
        return x.mean((2, 3))


def test_modules_that_a_model_merely_calls_are_met_at_every_call():
    net = Hides().double().eval()
    cea.NormGrad(net, "conv").attribute(X, 1)
    net.hidden.append(nn.BatchNorm2d(3).double())
    for _ in range(2):
        with pytest.raises(ValueError, match="train mode"):
            cea.NormGrad(net, "conv").attribute(X, 1)


class Counting(TorchFunctionMode):
    """Counts calls; one that it knows runs in parts that are counted, too."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.calls.append(func.__name__)
        if func is torch.square:
            return run_within(self, lambda t: torch.mul(t, t), *args)
        return func(*args, **(kwargs or {}))


def test_what_a_handled_call_runs_is_handled_too():
    before, three = function_modes(), torch.tensor(3.0)
    with Counting() as mode:
        nine = torch.square(three)
    assert nine.item() == 9
    assert mode.calls[:2] == ["square", "mul"]
    assert function_modes() == before


def test_it_ends_when_the_function_fails():
    mode, before = Counting(), function_modes()
    with pytest.raises(ZeroDivisionError):
        run_within(mode, lambda: 1 / 0)
    assert function_modes() == before
