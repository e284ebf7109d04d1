"""Checkpointed parts of a network: the maps are those of the network without checkpoints."""

import copy
import functools
import threading

import captum.attr as captum_attr
import pytest
import torch
import torchvision
from torch import nn
from torch.utils import checkpoint as checkpoints
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import captum_extract_aggregate as cea

X = torch.randn(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.c, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)
        self.way = way

    def _part(self, z, scale=1.0):
        z = torch.relu(self.norm(self.b(z) * scale))
        return self.c(z.clone().relu_()) + z

    def forward(self, x):
        z = torch.relu(self.a(x))
        return self.head(self.way(self._part, z).relu().mean((2, 3)))


def nested(part, z):
    return checkpoint(lambda t: checkpoint(part, t, use_reentrant=False) * 1, z, use_reentrant=False)


def selective(part, z):
    contexts = functools.partial(checkpoints.create_selective_checkpoint_contexts, [torch.ops.aten.relu.default])
    return checkpoint(part, z, use_reentrant=False, context_fn=contexts)


WAYS = {
    "without reentry": lambda part, z: checkpoint(part, z, use_reentrant=False),
    "with reentry": lambda part, z: checkpoint(part, z, use_reentrant=True),
    "by its module": lambda part, z: checkpoints.checkpoint(part, z, use_reentrant=False, preserve_rng_state=False),
    "keywords": lambda part, z: checkpoint(part, z, use_reentrant=False, scale=1.0),
    "nested": nested,
    "sequential": lambda part, z: checkpoint_sequential([part, nn.Identity()], 2, z, use_reentrant=False),
}
if hasattr(checkpoints, "create_selective_checkpoint_contexts"):
    WAYS["selective"] = selective
METHODS = {
    "NormGrad": cea.NormGrad,
    "gradient, sum": functools.partial(cea.LayerGradient, aggregate="sum"),
    "real layer": functools.partial(cea.NormGrad, virtual_identity=False),
    "GradCAM++": cea.GradCAMPlusPlus,
    "bias": cea.BiasAttribution,
    "guided": cea.GuidedBackprop,
    "RectGrad": functools.partial(cea.RectGrad, percentile=60),
    "LRP": functools.partial(cea.LRP, gamma=0.25),
    "excitation": cea.ExcitationBackprop,
}


@pytest.fixture
def nets():
    torch.manual_seed(0)
    plain = Net(lambda part, z: part(z)).double().eval()
    plain.norm.running_mean.normal_()
    return lambda way: (plain, _with(plain, way))


def _with(plain, way):
    net = copy.copy(plain)  # the same parts
    net.way = way
    return net


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", METHODS)
def test_layers_within_and_around(name, way, nets):
    plain, net = nets(WAYS[way])
    for layers in (["b"], ["a", "c"], ["norm", "a", "c", "b"]):
        got, expected = (METHODS[name](model, layers).attribute(X, target=2) for model in (net, plain))
        for one, other in zip(got, expected):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
            assert other.any()


@pytest.mark.parametrize("way", ["without reentry", "with reentry"])
def test_at_the_input_for_whole_networks_and_after_a_step(way, nets):
    plain, net = nets(WAYS[way])
    for make in (
        cea.LayerGradient,
        cea.FullGrad,
        cea.LRP,
        lambda net: cea.MetaSaliency(cea.NormGrad(net, "b"), lr=0.1),
        lambda net: cea.ActivityAttribution(net, "b"),
    ):
        got, expected = (make(model).attribute(X, target=2) for model in (net, plain))
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)
    delta = cea.ActivityAttribution(net, "a").compute_convergence_delta(X, target=2)
    assert delta.abs().max() < 1e-10


def test_a_memory_efficient_densenet():
    torch.manual_seed(0)
    nets = [torchvision.models.DenseNet(8, (2, 2), 8, num_classes=5, memory_efficient=m) for m in (True, False)]
    nets = [net.double() for net in nets]
    nets[1].load_state_dict(nets[0].state_dict())
    x, layers = torch.randn(1, 3, 32, 32).double(), ["features.denseblock1", "features.denseblock2.denselayer1.conv1"]
    for method in (cea.ExcitationBackprop, cea.NormGrad):
        for one, other in zip(*(method(net.eval(), layers).attribute(x, target=1) for net in nets)):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_checkpoints_of_other_threads_and_afterwards_are_what_they_were(nets):
    own = checkpoints.CheckpointFunction, checkpoints._checkpoint_hook
    _, net = nets(WAYS["without reentry"])
    runs = []

    def part(z):
        runs.append(1)
        return z.sin()

    def train():
        z = torch.randn(3, requires_grad=True)
        checkpoint(part, z, use_reentrant=False).sum().backward()
        checkpoint(part, z, use_reentrant=True).sum().backward()

    def while_explaining(*_):
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()

    handle = net.c.register_forward_hook(while_explaining)
    cea.NormGrad(net, "b").attribute(X, target=1)
    handle.remove()
    assert len(runs) == 4  # each ran again in the backward
    assert (checkpoints.CheckpointFunction, checkpoints._checkpoint_hook) == own
    with pytest.raises(ValueError, match="target"):
        cea.NormGrad(net, "b").attribute(X, target=99)
    assert (checkpoints.CheckpointFunction, checkpoints._checkpoint_hook) == own
    z = torch.randn(3, requires_grad=True)
    checkpoint(part, z, use_reentrant=False).sum().backward()
    assert len(runs) == 6


def test_a_home_made_checkpoint_is_an_error_and_no_map(nets):
    """Its backward runs layers that nobody watches."""

    class Again(torch.autograd.Function):
        @staticmethod
        def forward(ctx, part, z):
            ctx.part = part
            ctx.save_for_backward(z)
            return part(z)

        @staticmethod
        def backward(ctx, gradient):
            with torch.enable_grad():
                z = ctx.saved_tensors[0].detach().requires_grad_()
                (g,) = torch.autograd.grad(ctx.part(z), z, gradient)
            return None, g

    plain, net = nets(Again.apply)
    for layer in ("b", "c", ["a", "b"]):
        with pytest.raises(ValueError, match="checkpoint"):
            cea.NormGrad(net, layer).attribute(X, target=1)
    with pytest.raises(ValueError, match="checkpoint"):
        cea.ExcitationBackprop(net, "a").attribute(X, target=1)
    expected = cea.NormGrad(plain, "a").attribute(X, target=1)
    torch.testing.assert_close(cea.NormGrad(net, "a").attribute(X, target=1), expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(captum_attr.Saliency(net).attribute(X, 1), captum_attr.Saliency(plain).attribute(X, 1))
