"""What a network adds, call by call: parameters times their gradients, in their places, and a score in sum."""

import captum.attr
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import captum_extract_aggregate as cea
from tests.conftest import needs_indexing
from tests.reference.balanced import Fast, Transformer


def _network(kind, held=False):
    torch.manual_seed(3)
    return kind(held).double().eval()


def _images(size=8):
    return torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def _terms(model, x):
    return cea.LibraGrad(cea.ActivityAttribution(model, None)).bias_terms(x, target=1)


def _sums(terms):
    return sum(t.elsewhere if t.map is None else t.elsewhere + t.map.flatten(1).sum(1) for t in terms)


def test_each_is_a_parameter_times_its_gradient_where_gates_are_held():
    terms, x = _terms(_network(Transformer), _images()), _images()
    held = _network(Transformer, held=True)
    own = dict(held.named_parameters())
    assert {"patches.bias", "token", "positions", "blocks.0.qkv.bias", "head.bias"} <= {t.name for t in terms}
    for i in range(len(x)):
        held.zero_grad()
        held(x[i : i + 1])[0, 1].backward()
        for name in own:
            of_name = [t for t in terms if t.name == name]
            if of_name:  # (two calls add the shift of a block)
                expected = (own[name] * own[name].grad).sum()
                torch.testing.assert_close(_sums(of_name)[i], expected.detach(), rtol=1e-9, atol=1e-12)


def test_they_lie_where_they_are_added():
    x, held = _images()[:1], _network(Transformer, held=True)
    held(x)[0, 1].backward()
    terms = {t.name: t for t in _terms(_network(Transformer), x)}
    at_tokens = (held.positions * held.positions.grad).sum(-1).detach()
    torch.testing.assert_close(terms["positions"].map, at_tokens[:, 1:].reshape(1, 1, 2, 2))
    torch.testing.assert_close(terms["positions"].elsewhere, at_tokens[:, 0])
    assert terms["token"].map is None
    assert terms["head.bias"].map is None
    of_layer = cea.LibraGrad(cea.BiasAttribution(_network(Transformer), "patches")).attribute(x, target=1)
    torch.testing.assert_close(terms["patches.bias"].map, of_layer)


def _swin():
    torch.manual_seed(0)
    return torchvision.models.SwinTransformer([4, 4], 8, [2], [2], [4, 4], num_classes=3)


def _vit():
    torch.manual_seed(0)
    return torchvision.models.VisionTransformer(16, 8, 1, 2, 16, 32, num_classes=3)


def _with_biases(model):
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.rand_like(p)
    return model.double().eval()


@pytest.mark.parametrize(("make", "size"), [(lambda: _network(Fast), 8), (_swin, 32), (_vit, 16)])
def test_input_and_terms_are_the_score(make, size):
    model, x = _with_biases(make()), _images(size)
    terms = _terms(model, x)
    at_input = cea.LibraGrad(captum.attr.InputXGradient(model)).attribute(x, target=1).flatten(1).sum(1)
    assert ((at_input + _sums(terms)) / model(x)[:, 1] - 1).abs().max() < 1e-9


@pytest.mark.parametrize(("make", "size"), [pytest.param(_swin, 32, marks=needs_indexing), (_vit, 16)])
def test_full_grad_shows_them_all(make, size):
    model, x = _with_biases(make()), _images(size)
    terms, maps = _terms(model, x), []
    assert all(t.map is not None for t in terms if "attn" in t.name)  # in windows
    for m in (t.map.abs() for t in terms if t.map is not None):
        low, high = m.amin((2, 3), keepdim=True), m.amax((2, 3), keepdim=True)
        scaled = (m - low) / (high - low + 1e-6)
        maps.append(F.interpolate(scaled, (size, size), mode="bilinear", align_corners=True))
    method = cea.FullGrad(model, rescale="layer_map", include_input=False)
    torch.testing.assert_close(cea.LibraGrad(method).attribute(x, target=1), sum(maps), rtol=1e-5, atol=1e-8)


class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 3, bias=False)

    def forward(self, x):
        return self.head(self.conv(F.pad(x, (1, 1, 1, 1), value=2.0)).relu().mean((2, 3)))


def test_what_is_no_parameter_is_called_by_its_function():
    model, x = Padded().double().eval(), _images()
    (term,) = _terms(model, x)
    assert term.name == "pad in the whole Padded"
    assert term.map.shape == (2, 1, 10, 10)
    assert not term.map[..., 1:-1, 1:-1].any()


def test_full_grad_of_a_network_of_relus_is_the_plain_one_bit_for_bit():
    torch.manual_seed(0)
    model, x = torchvision.models.resnet18().eval(), torch.randn(2, 3, 32, 32)
    method = cea.FullGrad(model)
    assert torch.equal(cea.LibraGrad(method).attribute(x, target=1), method.attribute(x, target=1))


class MadeOfConstants(nn.Module):
    """Positions whose embedding a layer makes of a constant, as in XCiT."""

    def __init__(self):
        super().__init__()
        self.conv, self.embed, self.head = nn.Conv2d(3, 4, 2, 2), nn.Conv2d(2, 4, 1), nn.Linear(4, 3)
        self.register_buffer("grid", torch.rand(1, 2, 4, 4))

    def forward(self, x):
        return self.head((self.conv(x) + self.embed(self.grid)).relu().mean((2, 3)))


def test_full_grad_counts_once_what_a_layer_makes_of_constants():
    torch.manual_seed(0)
    model, x = MadeOfConstants().double().eval(), _images()
    method = cea.LibraGrad(cea.FullGrad(model, rescale="layer_map", include_input=False))
    alone = method.attribute(x[:1], target=1)
    torch.testing.assert_close(alone, method.attribute(x, target=1)[:1], rtol=1e-5, atol=1e-8)
    maps = [t.map.abs() for t in _terms(model, x[:1]) if t.map is not None]
    assert len(maps) == 2  # the bias of the patches, and the embedding as a whole
    scaled = [(m - m.min()) / (m.max() - m.min() + 1e-6) for m in maps]
    expected = F.interpolate(sum(scaled), (8, 8), mode="bilinear", align_corners=True)
    torch.testing.assert_close(alone, expected, rtol=1e-5, atol=1e-8)


class GlobalWindows(nn.Module):
    """Attention within windows of 2 x 2 cells, whose queries are the whole picture's 2 x 2 cells."""

    def __init__(self):
        super().__init__()
        self.patches, self.kv, self.proj, self.head = (
            nn.Conv2d(3, 4, 2, 2),
            nn.Linear(4, 8),
            nn.Linear(4, 4),
            nn.Linear(4, 3),
        )

    def windows(self, x):
        return x.unflatten(1, (2, 2)).unflatten(3, (3, 2)).transpose(2, 3).flatten(3, 4).flatten(0, 2)

    def forward(self, x):
        x = self.patches(x).permute(0, 2, 3, 1)
        q = F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), 2).flatten(2).mT.repeat_interleave(6, 0)
        k, v = self.kv(self.windows(x)).chunk(2, -1)
        found = self.proj((q @ k.mT).softmax(-1) @ v)
        found = found.unflatten(0, (-1, 2, 3)).unflatten(3, (2, 2)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return self.head((x + found).relu().mean((1, 2)))


@pytest.mark.parametrize("examples", [1, 2])
def test_what_windows_add_that_the_whole_picture_asks_lies_in_each(examples):
    net = _network(lambda held: GlobalWindows())
    x = torch.randn(examples, 3, 8, 12, dtype=torch.float64)
    (term,) = [t for t in _terms(net, x) if t.name == "proj.bias"]
    seen = []
    handle = net.proj.register_forward_hook(lambda module, args, out: seen.append(out))
    (g,) = torch.autograd.grad(net(x)[:, 1].sum(), seen)
    handle.remove()
    of_cells = (g @ net.proj.bias).detach().unflatten(0, (-1, 2, 3)).unflatten(3, (2, 2)).transpose(2, 3)
    torch.testing.assert_close(term.map, of_cells.flatten(3, 4).flatten(1, 2)[:, None], rtol=1e-9, atol=1e-12)
    assert term.elsewhere.abs().max() < 1e-12
