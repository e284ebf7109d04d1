"""One backward for several targets gives what one each gives; the CPU goes the GPU's way here."""

import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate._engine import joint_backward

CLASSES = 5


class Convolutions(nn.Module):
    """What ResNets have: BatchNorm, work in place, a branch that joins, pooling."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.body = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.BatchNorm2d(6), nn.Hardswish())
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(6, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.body(x)
        return self.fc(self.pool(x).mean((2, 3)))


class Tokens(nn.Module):
    """What ViTs have."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8)
        self.body = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.norm(self.stem(x).flatten(2).transpose(1, 2))
        return self.fc(self.body(x).mean(1))


class _OfNumPy(torch.autograd.Function):
    """A backward that vmap cannot run."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return torch.from_numpy(2 * g.numpy())


class Opaque(Convolutions):
    def forward(self, x):
        x = _OfNumPy.apply(self.stem(x))
        return self.fc(self.pool(x + self.body(x)).mean((2, 3)))


@pytest.fixture
def x():
    return torch.randn(1, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def passes(monkeypatch):
    """How many scores each call of autograd is of."""
    found, grad = [], torch.autograd.grad

    def counted(outputs, *args, **kwargs):
        found.append(len(outputs))
        return grad(outputs, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    return found


def made(kind):
    torch.manual_seed(0)
    return kind().double().eval()


METHODS = {
    "NormGrad": cea.NormGrad,
    "GradCAM++": cea.GradCAMPlusPlus,
    "input of the layer": lambda m, layers: cea.NormGrad(m, [*layers, None]),
    "competition": lambda m, layers: cea.ClassCompetition(cea.LayerCAM(m, layers), classes=[0, 1, 4]),
}


@pytest.mark.parametrize("kind", [Convolutions, Tokens])
@pytest.mark.parametrize("label", METHODS)
def test_the_maps_are_those_of_one_backward_each(kind, label, x, passes, monkeypatch):
    method = METHODS[label](made(kind), ["stem", "body"])
    wanted = [3, 0, 2, 4]
    expected = method.attribute_per_target(x, wanted)
    assert set(passes) == {1}
    one_by_one = len(passes)
    passes.clear()
    monkeypatch.setattr(joint_backward, "on_cpu", lambda t: False)
    found = method.attribute_per_target(x, wanted)
    assert passes == [one_by_one]
    for got, m in zip(found, expected, strict=True):
        assert m.any()
        torch.testing.assert_close(got, m, rtol=1e-10, atol=1e-14)


def test_several_examples_and_single_targets_go_one_by_one(x, passes, monkeypatch):
    monkeypatch.setattr(joint_backward, "on_cpu", lambda t: False)
    method = cea.NormGrad(made(Convolutions), "body")
    method.attribute_per_target(x.expand(2, -1, -1, -1), [1, 2])
    method.attribute(x, target=1)
    cea.GuidedBackprop(method.forward_func).attribute_per_target(x, [1, 2])  # whose gradients are not the chain rule's
    assert passes == [2, 2, 1, 1, 1]


def test_many_targets_share_several_backwards(x, passes, monkeypatch):
    method, wanted = cea.NormGrad(made(Convolutions), "body"), [0, 1, 2, 3, 4]
    expected = method.attribute_per_target(x, wanted)
    monkeypatch.setattr(joint_backward, "on_cpu", lambda t: False)
    for name, most in (("_AT_ONCE", 2), ("_MOST_BYTES", 2 * expected[:, 0].numel() * 6 * 8)):  # of 6 channels
        passes.clear()
        with monkeypatch.context() as limited:
            limited.setattr(joint_backward, name, most)
            torch.testing.assert_close(method.attribute_per_target(x, wanted), expected, rtol=1e-10, atol=1e-14)
        assert passes == [2, 2, 1]


def test_what_vmap_cannot_run_goes_one_by_one(x, passes, monkeypatch):
    method = cea.NormGrad(made(Opaque), "stem")
    expected = method.attribute_per_target(x, [1, 2])
    passes.clear()
    monkeypatch.setattr(joint_backward, "on_cpu", lambda t: False)
    assert torch.equal(method.attribute_per_target(x, [1, 2]), expected)
    assert passes == [2, 1, 1]


def test_mistakes_are_the_same(x, monkeypatch):
    monkeypatch.setattr(joint_backward, "on_cpu", lambda t: False)
    model = made(Convolutions)
    with pytest.raises(ValueError, match="target 9 is out of range"):
        cea.NormGrad(model, "body").attribute_per_target(x, [1, 9])
    with pytest.raises(ValueError, match="does not depend on 'body'"):
        cea.NormGrad(lambda x: model(x).detach(), model.body).attribute_per_target(x, [1, 2])


def test_an_interrupt_leaves_no_transform(x, monkeypatch):
    monkeypatch.setattr(joint_backward, "on_cpu", lambda t: False)
    model = made(Convolutions)
    model.stem[1].register_forward_hook(lambda m, args, output: output.register_hook(interrupted) and None)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        cea.NormGrad(model, "stem.0").attribute_per_target(x, [1, 2])
    assert torch._C._functorch.peek_interpreter_stack() is None
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def interrupted(g):
    raise KeyboardInterrupt
