"""FullGrad against a literal reference, and what it says of biases that it cannot meet."""

import warnings

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.biases import bias_of
from tests.attr.exact_networks import build
from tests.conftest import relative_error
from tests.networks import Tables


def reference_full_grad(net, x, target, layer_map=False, include_input=True, by_channel=False):
    """By the definition, for one example: every bias layer's output kept by a hook, one term at a time."""
    kept, handles = [], []
    for module in net.modules():
        bias = bias_of(module)
        if bias is not None and not isinstance(module, nn.Linear):
            handles.append(module.register_forward_hook(lambda m, a, out, bias=bias: kept.append((bias, out))))
    x = x.clone().requires_grad_()
    f = net(x)[0, target]
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(f, [x, *(out for _, out in kept)])
    terms = [(x * gradients[0]).detach()] if include_input else []
    terms += [bias[None, :, None, None] * g for (bias, _), g in zip(kept, gradients[1:])]
    total = torch.zeros(1, 1, *x.shape[2:], dtype=x.dtype)
    for term in terms:
        term = (term.sum(1, keepdim=True) if layer_map else term).abs()
        if not by_channel:
            term = term - term.min()
            term = term / (term.max() + 1e-6)
        for channel in range(term.shape[1]):
            single = term[:, channel : channel + 1]
            if by_channel:
                single = (single - single.min()) / (single.max() - single.min() + 1e-6)
            total += F.interpolate(single, x.shape[2:], mode="bilinear", align_corners=True)
    return total


@pytest.mark.parametrize("rescale", ["channel_joint", "layer_map", "channel"])
@pytest.mark.parametrize("include_input", [True, False])
def test_full_grad_equals_reference(rescale, include_input):
    net, side = build("cifar_resnet20")
    net, x = net.double(), torch.randn(2, 3, side, side, dtype=torch.float64)
    got = cea.FullGrad(net, rescale=rescale, include_input=include_input).attribute(x, [4, 7])
    assert got.shape == (2, 1, side, side)
    for i, target in enumerate((4, 7)):
        want = reference_full_grad(
            net, x[i : i + 1], target, rescale == "layer_map", include_input, rescale == "channel"
        )
        assert relative_error(got[i : i + 1], want) < 1e-10
    centred = cea.FullGrad(net, rescale=rescale, align_corners=False).attribute(x, 4)
    assert not torch.allclose(centred, cea.FullGrad(net, rescale=rescale).attribute(x, 4))
    per_target = cea.FullGrad(net, rescale=rescale, include_input=include_input).attribute_per_target(x, [4, 7])
    assert torch.allclose(per_target[0, 0], got[0])
    assert torch.allclose(per_target[1, 1], got[1])


def test_auxiliary_heads_that_do_not_run_are_left_out():
    net = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=True).eval()
    x = torch.randn(1, 3, 96, 96)
    assert torch.isfinite(cea.FullGrad(net).attribute(x, 3)).all()
    scores = net(x)[:, 3]
    assert (cea.FullGrad(net).compute_convergence_delta(x, 3).abs() / scores.abs()).max() < 1e-3


def test_normalisation_fused_with_its_activation_is_announced():
    timm = pytest.importorskip("timm")
    net = nn.Sequential(nn.Conv2d(3, 4, 3), timm.layers.BatchNormAct2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    x = torch.randn(1, 3, 6, 6)
    assert list(cea.bias_layers(net)) == ["0"]
    with pytest.raises(ValueError, match="adds no bias"):
        cea.BiasAttribution(net, "1").attribute(x, 1)
    with pytest.warns(UserWarning, match="fused with what follows"):
        cea.FullGrad(net).attribute(x, 1)


def test_full_grad_of_a_picture_and_a_vector():
    conv, head = nn.Conv2d(3, 4, 3), nn.Linear(6, 2)
    model = Both(conv, head).double()
    x, v = torch.randn(2, 3, 6, 6, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    with_input = cea.FullGrad(model).attribute((x, v), 1)
    without = cea.FullGrad(model, include_input=False).attribute((x, v), 1)
    assert not torch.allclose(with_input, without)
    assert cea.FullGrad(model).compute_convergence_delta((x, v), 1).abs().max() < 1e-12
    with pytest.raises(ValueError, match="layer's output"):
        cea.FullGrad(model).attribute((x, v), 1, attribute_to_layer_input=True)


class Both(nn.Module):
    def __init__(self, conv, head):
        super().__init__()
        self.conv, self.head = conv, head

    def forward(self, x, v):
        return self.head(torch.cat([self.conv(x).relu().mean((2, 3)), v], 1))


class Uncalled(nn.Module):
    """Uses the parameters of a layer without calling it, where a hook cannot meet them; another layer is idle."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.idle = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Conv2d(4, 5, 3)

    def forward(self, x):
        return F.conv2d(self.a(x).relu(), self.b.weight, self.b.bias).mean((2, 3))


def test_full_grad_says_which_biases_it_cannot_meet():
    torch.manual_seed(0)
    net, x = Uncalled().double().eval(), torch.rand(2, 3, 9, 9, dtype=torch.float64)
    with pytest.warns(UserWarning, match=r"uses without calling them.*: 'b'$"):
        map_ = cea.FullGrad(net).attribute(x, 1)
    delta = cea.FullGrad(net).compute_convergence_delta(x, 1)
    torch.testing.assert_close(delta, -net.b.bias[1].detach().expand(2))
    with warnings.catch_warnings():  # once for a layer, and no more forwards
        warnings.simplefilter("error")
        assert torch.equal(cea.FullGrad(net).attribute(x, 1), map_)
    attending = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Flatten(2), _Turned(), attending, nn.Flatten(), nn.Linear(392, 4)
    ).eval()
    with pytest.warns(UserWarning, match="out_proj"):
        cea.FullGrad(model).attribute(x.float(), 1)


class _Turned(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


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

    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain, overwriting = (cea.FullGrad(net(in_place), include_input=include_input) for in_place in (False, True))
    for _ in range(2):
        torch.testing.assert_close(overwriting.attribute(x, 1), plain.attribute(x, 1), rtol=1e-12, atol=1e-12)
    assert overwriting.compute_convergence_delta(x, 1).abs().max() < 1e-12


class Mixer(nn.Module):
    """Patches, of which a linear layer mixes the positions."""

    def __init__(self):
        super().__init__()
        self.patches, self.mix, self.head = nn.Conv2d(3, 4, 4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2)
        return self.head(self.mix(x).relu().mean(2))


def test_layers_that_mix_positions_are_left_out_by_name():
    model, x = Mixer().eval(), torch.randn(2, 3, 8, 8)
    with pytest.warns(UserWarning, match="lacks the biases of 1 layers .*'mix'"):
        got = cea.FullGrad(model).attribute(x, target=1)
    assert torch.equal(got, cea.FullGrad(model, ["patches"]).attribute(x, target=1))


@pytest.mark.parametrize("include_input", [True, False])
def test_tables_of_positions_are_left_out_of_one_picture_as_of_two(include_input):
    torch.manual_seed(0)
    net, x = Tables().double().eval(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    if not include_input:  # the graph begins at the layers, and a convolution is taken at its word
        del net.places.bias
        net.places.register_parameter("bias", None)
    method = cea.FullGrad(net, include_input=include_input)
    left_out = f"lacks the biases of {2 + include_input} layers .*'table.0', 'table.2'"
    with pytest.warns(UserWarning, match=left_out):
        both = method.attribute(x, 1)
    with pytest.warns(UserWarning, match=left_out):
        alone = torch.cat([method.attribute(x[i : i + 1], 1) for i in range(2)])
    torch.testing.assert_close(alone, both, rtol=1e-9, atol=1e-12)
    delta = method.compute_convergence_delta(x, 1)
    alone = torch.cat([method.compute_convergence_delta(x[i : i + 1], 1) for i in range(2)])
    torch.testing.assert_close(alone, delta, rtol=1e-9, atol=1e-12)


def test_what_a_further_argument_makes_is_no_table():
    """Nothing in the graph tells it from one."""
    torch.manual_seed(0)
    conv, other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    net = TwoPictures(conv, other).double()
    x, y = torch.randn(2, 2, 3, 6, 6, dtype=torch.float64)
    got = cea.FullGrad(net).attribute(x, 1, y)
    assert torch.equal(got, cea.FullGrad(net, ["conv", "other"]).attribute(x, 1, y))
    assert not torch.allclose(got, cea.FullGrad(net, ["conv"]).attribute(x, 1, y))


class TwoPictures(nn.Module):
    def __init__(self, conv, other):
        super().__init__()
        self.conv, self.other = conv, other

    def forward(self, x, y):
        return (self.conv(x).relu() + self.other(y).relu()).square().mean((2, 3))


def test_biases_behind_patches_and_their_cells_come_to_the_picture_s_places():
    torch.manual_seed(0)
    net, x = Patched().double().eval(), torch.randn(2, 3, 32, 48, dtype=torch.float64)
    seen = []
    net.mix.register_forward_hook(lambda module, args, out: seen.append(out))
    (g,) = torch.autograd.grad(net(x)[:, 1].sum(), seen.pop())
    term = (g * net.mix.bias[None, :, None, None]).detach()
    term = term.unflatten(3, (4, 6)).unflatten(2, (2, 2)).permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3).abs()
    low, high = (extreme[:, None, None, None] for extreme in (term.flatten(1).amin(1), term.flatten(1).amax(1)))
    expected = F.interpolate((term - low) / (high - low + 1e-6), (32, 48), mode="bilinear", align_corners=True)
    for only in (cea.FullGrad(net, ["mix"], include_input=False), cea.FullGrad(net, include_input=False)):
        torch.testing.assert_close(only.attribute(x, 1), expected.sum(1, keepdim=True), rtol=1e-9, atol=1e-9)
    together = cea.FullGrad(net).attribute(x, 1)
    with_input = cea.FullGrad(net, ["mix"]).attribute(x, 1)
    assert torch.equal(together, with_input)


class Patched(nn.Module):
    """Patches of 2 x 2 cells, put behind the cells of each: `N K 4 L`."""

    def __init__(self):
        super().__init__()
        self.conv, self.mix, self.head = nn.Conv2d(3, 4, 4, 4, bias=False), nn.Conv2d(4, 5, 1), nn.Linear(5, 3, False)

    def forward(self, x):
        cells = self.conv(x).unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).permute(0, 1, 3, 5, 2, 4)
        return self.head(self.mix(cells.flatten(4).flatten(2, 3)).relu().square().mean((2, 3)))


class SequenceFirst(nn.Module):
    """Tokens in dimension 0, as PyTorch's transformer layers have them by default."""

    def __init__(self):
        super().__init__()
        self.patches, self.layer = nn.Conv2d(3, 8, 4, 4), nn.TransformerEncoderLayer(8, 2, 16, dropout=0)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layer(self.patches(x).flatten(2).permute(2, 0, 1)).relu().mean(0))


class OneByOne(nn.Module):
    """Takes the examples of a batch one after the other, with channels last."""

    def __init__(self):
        super().__init__()
        self.patches, self.norm, self.head = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 3)

    def one(self, x):
        return self.head(self.norm(self.patches(x).permute(0, 2, 3, 1)).relu().mean((1, 2)))

    def forward(self, x):
        return torch.cat([self.one(x[i : i + 1]) for i in range(len(x))])


class Projected(nn.Module):
    """One linear layer for a table of positions, then for the cells of windows."""

    def __init__(self):
        super().__init__()
        self.patches, self.linear, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), nn.Linear(8, 3)
        self.table = nn.Parameter(torch.randn(1, 4, 12, 8))

    def of_table(self):
        return self.linear(self.table)

    def forward(self, x):
        table = self.of_table()
        cells = self.patches(x).unflatten(2, (2, 3)).unflatten(4, (2, 4)).permute(0, 2, 4, 3, 5, 1)
        return self.head((self.linear(cells.flatten(3, 4).flatten(1, 2)) * table).relu().mean((1, 2)))


class ProjectedApart(Projected):
    def __init__(self):
        super().__init__()
        self.of_tables = nn.Linear(8, 8)

    def of_table(self):
        return self.of_tables(self.table)


class AllAtOnce(OneByOne):
    def forward(self, x):
        return self.one(x)


@pytest.mark.parametrize("make", [SequenceFirst, AllAtOnce, Projected])
@pytest.mark.filterwarnings("ignore:FullGrad's map lacks")
def test_a_single_example_whose_dimensions_say_little(make):
    torch.manual_seed(0)
    net = make().double().eval()
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    x = torch.randn(2, 3, 24, 32, dtype=torch.float64)
    together = cea.FullGrad(net).attribute(x, target=1)
    alone = torch.cat([cea.FullGrad(net).attribute(one[None], target=1) for one in x])
    assert relative_error(alone, together) < 1e-10
    layer = {SequenceFirst: "layer", AllAtOnce: "norm", Projected: "patches"}[make]
    together = cea.NormGrad(net, layer).attribute(x, target=1)
    assert relative_error(cea.NormGrad(net, layer).attribute(x[:1], target=1), together[:1]) < 1e-10


def test_a_network_that_takes_examples_one_by_one():
    torch.manual_seed(0)
    net, whole = OneByOne().double().eval(), AllAtOnce().double().eval()
    whole.load_state_dict(net.state_dict())
    x = torch.randn(1, 3, 24, 32, dtype=torch.float64)
    assert torch.equal(cea.FullGrad(net).attribute(x, target=1), cea.FullGrad(whole).attribute(x, target=1))
    maps = (cea.NormGrad(model, "norm").attribute(x, target=1) for model in (net, whole))
    assert torch.equal(*maps)


@pytest.mark.filterwarnings("ignore:FullGrad's map lacks")
def test_a_layer_of_a_table_and_of_a_signal_is_as_two_layers():
    torch.manual_seed(0)
    net, apart = Projected().double().eval(), ProjectedApart().double().eval()
    apart.load_state_dict(net.state_dict(), strict=False)
    apart.of_tables.load_state_dict(net.linear.state_dict())
    x = torch.randn(2, 3, 24, 32, dtype=torch.float64)
    assert relative_error(cea.FullGrad(net).attribute(x, 1), cea.FullGrad(apart).attribute(x, 1)) < 1e-10
