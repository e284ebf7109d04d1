"""Several methods, or several targets, from one pass."""

import captum.attr as captum_attr
import torch
from torch import nn

import captum_extract_aggregate as cea

LAYERS = ["conv1", "relu2", "conv3"]


def test_combinations_share_the_pass_of_their_methods(small_net, images):
    forwards = []
    handle = small_net.register_forward_hook(lambda *_: forwards.append(1))
    normgrad = cea.NormGrad(small_net, LAYERS)
    methods = {
        "plain": normgrad,
        "product": cea.LayerCombination(normgrad),
        "sum": cea.LayerCombination(cea.LinearApproximation(small_net, LAYERS), weights="linear", mode="sum"),
    }
    found = cea.attribute_together_per_target(methods, images, [0, 1])
    assert len(forwards) == 1
    handle.remove()
    for maps, target in zip(found, [0, 1]):
        for name in ("product", "sum"):
            assert torch.equal(maps[name], methods[name].attribute(images, target=target))
    layers = [small_net.get_submodule(name) for name in LAYERS]
    captums = cea.LayerCombination(captum_attr.LayerGradCam(small_net, layers))
    (together,) = cea.attribute_together({"Captum's": captums}, images, 1).values()
    assert torch.equal(together, captums.attribute(images, 1))


class Counting(nn.Module):
    """Counts the forwards of a model, and the backwards through its end."""

    def __init__(self, model):
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0

    def forward(self, *args):
        self.forwards += 1
        out = self.model(*args)
        if out.requires_grad:
            out.register_hook(self._count)
        return out

    def _count(self, grad):
        self.backwards += 1


def test_several_targets_share_the_forward(small_net, images):
    net = Counting(small_net)
    layers = [small_net.conv1, small_net.conv3]
    method = cea.NormGrad(net, layers)
    targets = torch.tensor([[0, 1, 4], [2, 2, 0], [3, 1, 1]])
    maps = method.attribute_per_target(images, targets)
    assert (net.forwards, net.backwards) == (1, 3)
    assert [tuple(m.shape) for m in maps] == [(3, 3, 1, 12, 12), (3, 3, 1, 3, 3)]
    for t in range(3):
        for got, expected in zip(maps, method.attribute(images, target=targets[:, t])):
            assert torch.allclose(got[:, t], expected, rtol=1e-5, atol=1e-9)
    for_all = method.attribute_per_target(images, [1, 4])
    assert torch.allclose(for_all[0][:, 1], method.attribute(images, target=4)[0], rtol=1e-5, atol=1e-9)
    single = cea.NormGrad(net, small_net.conv3).attribute_per_target(images[:1], [[1, 2]])
    assert tuple(single.shape) == (1, 2, 1, 3, 3)


def test_methods_together_share_one_pass(small_net, images):
    net = Counting(small_net)
    methods = {
        "norm": cea.NormGrad(net, [small_net.conv1, small_net.conv3]),
        "real": cea.NormGrad(net, small_net.conv2, virtual_identity=False),
        "input": cea.LayerGradient(net),
        "captum": captum_attr.LayerGradCam(net, small_net.conv3),
        "other": cea.NormGrad(small_net, small_net.conv3),
    }
    maps = cea.attribute_together(methods, images, target=[0, 1, 2])
    assert list(maps) == list(methods)
    assert (net.forwards, net.backwards) == (2, 2)  # one for ours, one for Captum's own
    for name, method in methods.items():
        expected = method.attribute(images, target=[0, 1, 2])
        for got, want in zip(maps[name], expected):
            assert torch.allclose(got, want, rtol=1e-5, atol=1e-9), name


def test_what_a_subclass_says_of_its_map_or_pass_is_kept_in_company(small_net, images):
    class OwnMap(cea.GradCAM):
        def map_of(self, layer, x, g):
            return (x * g).sum(1, keepdim=True) * 2

    class OwnPass(cea.LinearApproximation):
        def run_pass(self, inputs, *args):
            return super().run_pass(inputs * 0, *args)

    methods = {
        "plain": cea.LinearApproximation(small_net, "conv3"),
        "map": OwnMap(small_net, "conv3"),
        "pass": OwnPass(small_net, "conv3"),
    }
    together = cea.attribute_together(methods, images, 1)
    for name, method in methods.items():
        assert torch.equal(together[name], method.attribute(images, 1))
    torch.testing.assert_close(together["map"], 2 * together["plain"])
    assert not torch.allclose(together["pass"], together["plain"])


def test_methods_of_this_package_still_share_one_forward(small_net, images):
    calls = []
    small_net.register_forward_hook(lambda *args: calls.append(1))
    methods = {
        "normgrad": cea.NormGrad(small_net, ["conv1", "conv3"]),
        "activity": cea.ActivityAttribution(small_net, "conv3"),
        "cumulative": cea.CumulativeGradCAM(small_net, ["conv1", "conv3"]),
        "combined": cea.LayerCombination(cea.NormGrad(small_net, ["conv1", "conv3"])),
    }
    cea.attribute_together_per_target(methods, images, [0, 1])
    assert len(calls) == 1
    methods["combined"].attribute_per_target(images, [0, 1])
    assert len(calls) == 2
