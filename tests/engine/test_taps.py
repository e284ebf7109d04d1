"""Where in a forward tensors are met: whatever the model does with them before and afterwards."""

import collections

import captum.attr as captum_attr
import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate._engine.recording import joined
from captum_extract_aggregate._engine.taps import Place, device_order
from tests.conftest import SmallNet
from tests.engine.cases import Head, X, equals_captum, evidence_of
from tests.networks import Tables


def test_in_place_operations_do_not_spoil_what_was_captured():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3)).eval()
    model = lambda x: net(x).mean((2, 3))  # noqa: E731
    x = torch.randn(1, 3, 8, 8)
    got = evidence_of(model, x, [Place(net[0]), Place(net[1]), Place(net[1], "input")])
    before, after = net[0](x), net[0](x).relu()
    assert torch.allclose(got.activations[Place(net[0])][0], before)
    assert torch.allclose(got.activations[Place(net[1])][0], after)
    assert torch.allclose(got.activations[Place(net[1], "input")][0], before)


def test_identity_shortcut_whose_tensor_is_changed_later():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.shortcut = nn.Conv2d(3, 3, 3, padding=1), nn.Identity()

        def forward(self, x):
            y = self.conv(x)
            z = self.shortcut(y)
            y += 1  # the shortcut's output is the same tensor
            return (y * z).mean((2, 3))

    net, x = Net(), torch.randn(1, 3, 5, 5)
    captured = evidence_of(net, x, [Place(net.shortcut)]).activations[Place(net.shortcut)][0]
    assert torch.allclose(captured, net.conv(x))


def test_a_layer_s_input_overwritten_afterwards():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            y = self.stem(x)
            z = self.conv(y)
            y.relu_()
            return (y + z).mean((2, 3))

    net, x = Net().double(), torch.randn(1, 3, 4, 4, dtype=torch.float64)
    got = cea.LinearApproximation(net, net.conv).attribute(x, 0, attribute_to_layer_input=True)
    y = net.stem(x).detach().requires_grad_()
    (g,) = torch.autograd.grad((y.relu() + net.conv(y)).mean((2, 3))[:, 0].sum(), y)
    assert torch.allclose(got, (g * y).sum(1, keepdim=True))


def test_parts_from_several_devices_are_joined_in_the_batch_s_order():
    devices = {torch.device("cuda", 1): "b", torch.device("cuda", 0): "a"}
    assert device_order(devices, [0, 1]) == [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert device_order(devices, [1, 0]) == [torch.device("cuda", 1), torch.device("cuda", 0)]
    assert joined([torch.zeros(2, 1), torch.ones(1, 1)]).flatten().tolist() == [0, 0, 1]


def test_scripted_model(small_net, images):
    traced = torch.jit.trace(small_net, images)
    with pytest.raises(ValueError, match="scripted or traced"):
        cea.NormGrad(traced, traced.conv3).attribute(images, 1)
    at_input = cea.LayerGradient(traced).attribute(images, 1)
    assert torch.allclose(at_input, cea.LayerGradient(small_net).attribute(images, 1), rtol=1e-4, atol=1e-7)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.Tanh()

    def forward(self, x):
        return self.act(self.conv(self.act(self.conv(x)))).mean((2, 3))


def test_a_layer_that_runs_several_times():
    net, x = Shared(), torch.randn(2, 3, 6, 6)
    with pytest.raises(ValueError, match=r"'conv'.*ran 2 times.*call=0"):
        cea.NormGrad(net, net.conv).attribute(x, 1)
    maps = {call: cea.LinearApproximation(net, net.conv, call=call).attribute(x, 1) for call in (0, 1, -1)}
    assert torch.equal(maps[1], maps[-1])
    assert not torch.allclose(maps[0], maps[1])
    last = captum_attr.LayerGradientXActivation(net, net.conv).attribute(x, 1).sum(1, keepdim=True)
    assert torch.allclose(maps[1], last, rtol=1e-4, atol=1e-7)  # Captum gives the last call, without a word
    with pytest.raises(ValueError, match="call is 2"):
        cea.NormGrad(net, net.conv, call=2).attribute(x, 1)
    real = cea.ExtractAggregate(net, net.conv, extract="layer", aggregate="sum", call=0).attribute(x, 1)
    assert real.shape == (2, 1, 6, 6)


def test_layers_that_emit_tuples_and_take_keywords():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, *, image, flag):
            y = self.conv(image)
            return y, (y * 2)[..., 1:], flag

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.two = Two()

        def forward(self, x):
            a, b, _ = self.two(image=x, flag=True)
            return a.mean((2, 3)) + b.square().mean((2, 3))

    net, x = Net(), torch.randn(2, 3, 6, 6)
    maps = cea.LinearApproximation(net, net.two).attribute(x, 1)
    assert isinstance(maps, tuple)
    assert [tuple(m.shape) for m in maps] == [(2, 1, 4, 4), (2, 1, 4, 3)]
    at_input = cea.LinearApproximation(net, net.two).attribute(x, 1, attribute_to_layer_input=True)
    assert torch.allclose(at_input, cea.LinearApproximation(net, None).attribute(x, 1))
    both = cea.NormGrad(net, [net.two, net.two.conv]).attribute(x, 1)
    assert isinstance(both[0], tuple)
    per_target = cea.LinearApproximation(net, net.two).attribute_per_target(x, [0, 1])
    assert torch.equal(per_target[1][:, 1], maps[1])


class Stages(nn.Module):
    """Two stages; something may work in place on what the first gives, or the second's output is the model's."""

    def __init__(self, in_place):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())
        self.second = nn.Sequential(nn.Conv2d(4, 5, 3), nn.Tanh())
        self.in_place = in_place
        self.forwards = 0

    def forward(self, x):
        self.forwards += 1
        x = self.first(x)
        return self.second(x.mul_(2) if self.in_place else x * 2)


@pytest.mark.parametrize("layers", [["first"], ["first", "second"], ["second"]])
def test_stages_are_handed_on_as_they_are_until_something_overwrites_them(layers):
    torch.manual_seed(0)
    plain, careless = (Stages(in_place).double().eval() for in_place in (False, True))
    careless.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    for target in [(1, 2, 3), (4, 0, 0)]:
        expected = cea.NormGrad(plain, layers).attribute(x, target)
        for a, b in zip(cea.NormGrad(careless, layers).attribute(x, target), expected):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=0)
            assert b.abs().sum() > 0
    assert plain.forwards == 2
    assert careless.forwards == (3 if "first" in layers else 2)  # once to find out


Pair = collections.namedtuple("Pair", ["first", "second"])


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


def test_scripted_layers():
    net = SmallNet().eval()
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    with pytest.raises(ValueError, match="scripted"):
        cea.NormGrad(scripted, "0").attribute(X.float(), 1)
    frozen = torch.jit.freeze(torch.jit.trace(net, X.float()))
    at_input = cea.LayerGradient(frozen).attribute(X.float(), 1)
    assert torch.allclose(at_input, cea.LayerGradient(net).attribute(X.float(), 1), rtol=1e-3, atol=1e-6)


class Spectrum(nn.Module):
    def forward(self, x):
        return torch.fft.fft2(x)


class WithSpectrum(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.spectrum, self.head = nn.Conv2d(3, 4, 3), Spectrum(), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.spectrum(self.conv(x)).abs().mean((2, 3)))


@pytest.mark.parametrize("to_input", [False, True])
def test_a_layer_of_complex_numbers_is_named_as_such(images, to_input):
    net = WithSpectrum().eval()
    assert cea.NormGrad(net, "spectrum").attribute(images, 1, attribute_to_layer_input=True).shape == (3, 1, 10, 10)
    wrapped = nn.Sequential(net.conv, net.spectrum, nn.Identity()).eval()
    model = lambda x: net.head(wrapped(x).abs().mean((2, 3)))  # noqa: E731
    layer = wrapped[2] if to_input else net.spectrum
    with pytest.raises(TypeError, match=r"put of layer \w+ is a tensor of complex numbers; expected a floating point"):
        cea.NormGrad(model, layer).attribute(images, 1, attribute_to_layer_input=to_input)


def test_a_layer_of_integers_is_named_as_such(images):
    class Signs(nn.Module):
        def forward(self, x):
            return x.sign().long()

    net = nn.Sequential(nn.Conv2d(3, 4, 3), Signs())
    with pytest.raises(TypeError, match=r"output of layer Signs is a tensor of torch.int64"):
        cea.NormGrad(lambda x: net(x).float().mean((2, 3)), net[1]).attribute(images, 1)


def test_optional_places_do_without_what_depends_on_no_input():
    net, x = Tables().eval(), torch.randn(2, 3, 16, 16)
    table, norm = Place(net.table, optional=True), Place(net.norm, optional=True)
    whole = evidence_of(net, x, [Place(None, "input"), table, norm])
    assert whole.activations[table] == whole.gradients[table] == ()
    assert len(whole.activations[norm]) == 1
    asked = table._replace(optional=False)
    assert evidence_of(net, x, [Place(None, "input"), asked]).gradients[asked][0].abs().max() > 0
    from_layers = evidence_of(net, x, [table, norm])  # whose graph does not show it
    assert len(from_layers.activations[table]) == 1
