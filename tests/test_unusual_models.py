"""Models that hold, overwrite, compile, checkpoint or wrap: right maps or a clear error, and nothing changed."""

import collections

import captum.attr as captum_attr
import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from tests.conftest import SmallNet

Pair = collections.namedtuple("Pair", ["first", "second"])
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def equals_captum(model, layer, x=X, target=1, **kwargs):
    got = cea.LinearApproximation(model, layer).attribute(x, target, **kwargs)
    theirs = captum_attr.LayerGradientXActivation(model, layer).attribute(x, target, **kwargs).sum(1, keepdim=True)
    return torch.allclose(got, theirs, rtol=1e-9, atol=1e-14)


class Head(nn.Module):
    """A small network around a `body`, in float64."""

    def __init__(self, body):
        super().__init__()
        self.body, self.mix = body, nn.Conv2d(4, 3, 1)
        self.double()

    def forward(self, x, *extra):
        return self.mix(self.body(x, *extra)).tanh().mean((2, 3))


class HeldByAHook(nn.Module):
    """A skip connection through a forward hook, as fastai's U-Nets have."""

    def __init__(self):
        super().__init__()
        self.encoder, self.middle, self.held = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(2, 2, 1), {}
        self.encoder.register_forward_hook(lambda module, args, output: self.held.update(skip=output))

    def forward(self, x):
        y = self.middle(self.encoder(x)).tanh()
        return torch.cat([y, self.held["skip"]], 1)


class HeldByTheLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Saving()

    def forward(self, x):
        y = self.inner(x).tanh()
        return torch.cat([y, self.inner.saved], 1)


class Saving(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x):
        self.saved = self.conv(x)
        return self.saved


def test_a_layer_s_output_that_something_else_holds():
    net = Head(HeldByAHook())
    assert equals_captum(net, net.body.encoder)
    net = Head(HeldByTheLayer())
    assert equals_captum(net, net.body.inner)
    assert equals_captum(net, net.body.inner.conv)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.pair = ReturnsAPair()

    def forward(self, x):
        pair = self.pair(x)
        return torch.cat([pair.first, pair.second], 1)


class ReturnsAPair(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        y = self.conv(x)
        return Pair(y, y.square())


def test_named_tuples_stay_named_tuples():
    net = Head(Named())
    maps = cea.LinearApproximation(net, net.body.pair).attribute(X, 1)
    assert [tuple(m.shape) for m in maps] == [(2, 1, 8, 8)] * 2


class Constant(nn.Module):
    """A layer on something that does not come from the input."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.conv, self.on_constant = kind, nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.register_buffer("buffer", torch.ones(1, 3, 8, 8))
        self.parameter = nn.Parameter(torch.ones(1, 3, 8, 8), requires_grad=False)

    def forward(self, x, given=None):
        constant = {"buffer": self.buffer, "parameter": self.parameter, "argument": given}[self.kind]
        return self.conv(x) * self.on_constant(constant)


@pytest.mark.parametrize("kind", ["buffer", "parameter", "argument"])
def test_constants_that_a_layer_takes_keep_their_flags(kind):
    net = Head(Constant(kind))
    given = torch.ones(1, 3, 8, 8, dtype=torch.float64)
    tensors = [given, net.body.buffer, net.body.parameter]
    method = cea.LinearApproximation(net, net.body.on_constant)
    got = method.attribute(X[:1], 1, given, attribute_to_layer_input=True)
    assert [t.requires_grad for t in tensors] == [False] * 3
    assert all(t.grad is None for t in tensors)
    x = torch.ones(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(net.mix(net.body.conv(X[:1]) * net.body.on_constant(x)).tanh().mean((2, 3))[0, 1], x)
    assert torch.allclose(got, (g * x).sum(1, keepdim=True))


def test_a_model_that_cannot_be_differentiated_for_its_in_place_operations():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            y = self.conv(x).exp()
            z = y * 2
            y += 1
            return z + y

    net = Head(Broken())
    with pytest.raises(ValueError, match="could be trained"):
        cea.NormGrad(net, net.body.conv).attribute(X, 1)


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


class Split(nn.Module):
    """Gives two views of one tensor."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return self.conv(x).chunk(2, 1)


@pytest.mark.parametrize("places", [["split"], ["split.conv", "split"]])
def test_a_block_whose_views_are_overwritten(places):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.split, self.head = Split(), nn.Linear(4, 5)

        def forward(self, x):
            a, b = self.split(x)
            return self.head((torch.relu_(a) * b).mean((2, 3)))

    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(2, 3, 9, 9)
    got = cea.LinearApproximation(net, places).attribute(x, 1)[-1]
    a, b = (t.detach() for t in net.split(x))
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    grads = torch.autograd.grad(net.head((a.relu() * b).mean((2, 3)))[:, 1].sum(), (a, b))
    for map_, t, g in zip(got, (a, b), grads):
        assert torch.allclose(map_, (t * g).sum(1, keepdim=True), rtol=1e-4, atol=1e-6)


def test_parameters_put_in_by_functional_call():
    net = SmallNet().eval()
    other = {name: (p.detach() * 1.5).requires_grad_() * 1 for name, p in net.named_parameters()}
    model = lambda x: torch.func.functional_call(net, other, (x,))  # noqa: E731
    got = cea.LinearApproximation(model, net.conv3).attribute(X.float(), 1)
    theirs = captum_attr.LayerGradientXActivation(model, net.conv3).attribute(X.float(), 1).sum(1, keepdim=True)
    assert torch.allclose(got, theirs, rtol=1e-4, atol=1e-7)


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


def test_weight_norm():
    conv = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)).double()
    net = nn.Sequential(conv, nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert equals_captum(net, net[1])
    assert cea.NormGrad(net, conv, virtual_identity=False).attribute(X, 1).shape == (2, 1, 6, 6)


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


def test_scripted_layers():
    net = SmallNet().eval()
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    with pytest.raises(ValueError, match="scripted"):
        cea.NormGrad(scripted, "0").attribute(X.float(), 1)
    frozen = torch.jit.freeze(torch.jit.trace(net, X.float()))
    at_input = cea.LayerGradient(frozen).attribute(X.float(), 1)
    assert torch.allclose(at_input, cea.LayerGradient(net).attribute(X.float(), 1), rtol=1e-3, atol=1e-6)


def test_a_finite_score_with_an_infinite_gradient():
    conv = nn.Conv2d(3, 4, 1)
    model = lambda x: (conv(x).relu().sum((2, 3)) * 0).sqrt()  # noqa: E731
    with pytest.raises(ValueError, match="though the score is not"):
        cea.NormGrad(model, conv).attribute(X.float(), 1)


def test_batches_that_mix_in_eval_mode():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    ).eval()
    with pytest.raises(ValueError, match="batches of one example"):
        cea.NormGrad(net, net[0]).attribute(X.float(), 1)
    assert cea.NormGrad(net, net[0]).attribute(X[:1].float(), 1).shape == (1, 1, 8, 8)


@pytest.mark.parametrize("model", [lambda out: out[:1], lambda out: out.repeat(2, 1)])
def test_as_many_scores_as_examples(model):
    net = SmallNet().eval()
    with pytest.raises(ValueError, match="expected one per example"):
        cea.NormGrad(lambda x: model(net(x)), net.conv3).attribute(X.float(), 1)


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


class Views(nn.Linear):
    """A layer that holds another, and returns a view."""

    def __init__(self):
        super().__init__(4, 4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        y = super().forward(self.dropout(x))
        return y.view(y.shape)


@pytest.mark.parametrize("make", [Views, lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))])
@pytest.mark.parametrize("include_input", [False, True])
def test_fullgrad_where_biased_views_are_overwritten(make, include_input):
    def net(in_place):
        torch.manual_seed(0)

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.patches, self.linear = nn.Conv2d(3, 4, 2, 2), make()
                self.relu, self.head = nn.ReLU(in_place), nn.Linear(4, 3)

            def forward(self, x):
                tokens = self.patches(x).flatten(2).transpose(1, 2).contiguous()
                return self.head(self.relu(self.linear(tokens)).mean(1))

        return Net().double().eval()

    plain, overwriting = (cea.FullGrad(net(in_place), include_input=include_input) for in_place in (False, True))
    for _ in range(2):
        torch.testing.assert_close(overwriting.attribute(X, 1), plain.attribute(X, 1), rtol=1e-12, atol=1e-12)
    assert overwriting.compute_convergence_delta(X, 1).abs().max() < 1e-12


def test_a_layer_that_gives_a_number_too_has_no_map_of_it():
    class WithLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            y = self.conv(x)
            return y, y.square().mean()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = WithLoss()

        def forward(self, x):
            y, loss = self.block(x)
            return y.mean((2, 3)) + loss

    with pytest.raises(ValueError, match=r"tensor 2 of 2.* shape \(\), which has no positions"):
        cea.NormGrad(Net().double().eval(), "block").attribute(X, 1)
