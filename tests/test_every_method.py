"""One contract over every registered method: Captum's conventions, the model as it was, batches, dtypes, company.

A method that is registered is found here by itself.
"""

import pytest
import torch
from captum.attr import Attribution, GradientAttribution, LayerAttribution, NoiseTunnel

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.by_name import make_method
from captum_extract_aggregate.registry import list_methods
from tests.conftest import SmallNet, relative_error
from tests.faults import prepared, snapshot

LAYERS = ["conv1", "conv3"]  # both have biases
# Those of attention weights keep the same laws on a transformer, in tests/attr/test_attention.py.
ATTENTION = ("legrad", "gradient-weighted-attention", "attention-rollout")
NAMES = [
    *(m for m in list_methods() if m not in ("extract-aggregate", "meta-saliency", *ATTENTION)),
    "conv3x3:filter_norm",
    "layer:norm",
]


def net_and_images(dtype=torch.float64):
    """A network whose BatchNorm does something, in eval mode, and three images."""
    torch.manual_seed(0)
    net = SmallNet()
    net.bn.running_mean.normal_(std=0.1)
    net.bn.running_var.uniform_(0.5, 2)
    return net.eval().to(dtype), torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(1)).to(dtype)


def made(name, net):
    """The method on two layers, if it takes them."""
    return make_method(name, net, [net.get_submodule(layer) for layer in LAYERS])


def joins(method):
    """Whether it makes one map of all its layers."""
    return getattr(method, "joins_layers", True)


def maps_of(found):
    """The maps of a method as a list, whether it makes one of them or several."""
    return found if isinstance(found, list) else [found]


@pytest.mark.parametrize("name", NAMES)
def test_captums_conventions(name):
    net, x = net_and_images()
    method = made(name, net)
    assert isinstance(method, Attribution)
    assert isinstance(method, (LayerAttribution, cea.LayerCombination))
    assert joins(method) or isinstance(method, GradientAttribution)
    assert callable(method.attribute.__wrapped__)
    assert method.get_name()
    with pytest.raises(NotImplementedError):
        method.attribute_future()
    found = method.attribute(x, target=1)
    assert isinstance(found, list) == (not joins(method))
    for map_ in maps_of(found):
        assert map_.shape[:2] == (3, 3 if name == "guided-gradcam" else 1)  # which is of the input's channels
        assert map_.ndim == 4
        assert not map_.requires_grad
    if method.has_convergence_delta():
        delta = method.compute_convergence_delta(x, target=1)
        assert all(d.shape == (3,) for d in maps_of(delta))


@pytest.mark.parametrize("name", NAMES)
def test_the_model_and_the_input_are_as_they_were(name):
    net, x = prepared()
    method = made(name, net)
    before = snapshot(net, x)
    method.attribute(x, target=1)
    assert snapshot(net, x) == before


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_examples(name):
    net, x = net_and_images()
    targets = [1, 4, 0]
    together = maps_of(made(name, net).attribute(x, target=targets))
    for i, target in enumerate(targets):
        alone = maps_of(made(name, net).attribute(x[i : i + 1], target=target))
        assert all(relative_error(t[i : i + 1], a) < 1e-9 for t, a in zip(together, alone))


@pytest.mark.parametrize("name", NAMES)
def test_forms_of_targets_and_more_arguments(name):
    net, x = net_and_images()
    method = made(name, net)
    expected = maps_of(method.attribute(x, target=[2, 2, 2]))
    for target in (2, torch.tensor(2), torch.tensor([2, 2, 2]), [(2,), (2,), (2,)]):
        assert all(torch.equal(a, b) for a, b in zip(maps_of(method.attribute(x, target=target)), expected))
    scale = torch.full((3, 1), 1.0, dtype=x.dtype)
    scaled = maps_of(method.attribute(x, target=2, additional_forward_args=(scale,)))
    assert all(relative_error(a, b) < 1e-9 for a, b in zip(scaled, expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_maps_have_the_inputs_precision(name, dtype):
    net, x = net_and_images(dtype)
    exact = maps_of(made(name, net_and_images()[0]).attribute(net_and_images()[1], target=1))
    for map_, wanted in zip(maps_of(made(name, net).attribute(x, target=1)), exact):
        assert map_.dtype == dtype
        assert torch.isfinite(map_).all()
        if dtype == torch.float32 and "rectgrad" not in name:  # whose percentile may fall between two numbers
            assert relative_error(map_.double(), wanted) < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_several_targets_share_a_forward(name):
    net, x = net_and_images()
    method = made(name, net)
    if not hasattr(method, "attribute_per_target"):
        pytest.skip("has one target at a time")
    together = maps_of(method.attribute_per_target(x, [3, 1]))
    for t, target in enumerate((3, 1)):
        alone = maps_of(method.attribute(x, target=target))
        assert all(relative_error(m[:, t], a) < 1e-9 for m, a in zip(together, alone))


def test_all_together_are_what_each_is_alone():
    net, x = net_and_images()
    methods = {name: made(name, net) for name in NAMES}
    together = cea.attribute_together(methods, x, target=1)
    for name, method in methods.items():
        for m, alone in zip(maps_of(together[name]), maps_of(method.attribute(x, target=1))):
            assert relative_error(m, alone) < 1e-9, name


@pytest.mark.parametrize("name", NAMES)
def test_noise_tunnel_takes_it(name):
    net, x = net_and_images()
    method = make_method(name, net, [net.conv3])
    if not joins(method):
        method.layer = net.conv3
    torch.manual_seed(0)
    found = NoiseTunnel(method).attribute(x, target=1, nt_samples=2, stdevs=0.0)
    expected = maps_of(method.attribute(x, target=1))[0]
    assert relative_error(found, expected) < 1e-9
