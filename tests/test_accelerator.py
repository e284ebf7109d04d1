"""On a GPU: every method and measure says there what it says on the CPU, waits for nothing and leaves nothing.

These are left out where there is no GPU; what is done otherwise there is called on the CPU by test_other_devices.py.
"""

import copy
import gc

import pytest
import torch
import torchvision
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate import metrics
from captum_extract_aggregate.attr.by_name import make_method
from tests.conftest import SmallNet, relative_error
from tests.test_every_method import ATTENTION, NAMES, made, maps_of, net_and_images

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
DEVICE = "cuda"


@pytest.fixture
def small():
    return net_and_images()


@pytest.fixture
def vit():
    torch.manual_seed(0)
    net = torchvision.models.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5).double().eval()
    nn.init.normal_(net.heads.head.weight)
    return net, torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def there(net, x):
    """A copy of both on the GPU."""
    return copy.deepcopy(net).to(DEVICE), x.to(DEVICE)


def attention(name, net):
    return make_method(name, net, [layer.self_attention for layer in net.encoder.layers])


class Waiting:
    """Whatever waits for the GPU within is an error."""

    def __enter__(self):
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")

    def __exit__(self, *_):
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_those_of_the_cpu(name, small):
    net, x = small
    gpu, y = there(net, x)
    before = [t.clone() for t in gpu.state_dict().values()]
    for a, b in zip(maps_of(made(name, gpu).attribute(y, 1)), maps_of(made(name, net).attribute(x, 1))):
        assert a.device.type == DEVICE
        assert a.dtype == b.dtype
        assert relative_error(a.cpu(), b) < 1e-9
    assert all(torch.equal(a, b) for a, b in zip(before, gpu.state_dict().values()))


@pytest.mark.parametrize("name", ATTENTION)
def test_maps_of_attention_are_those_of_the_cpu(name, vit):
    gpu, y = there(*vit)
    for a, b in zip(
        maps_of(attention(name, gpu).attribute(y, 1)), maps_of(attention(name, vit[0]).attribute(vit[1], 1))
    ):
        assert relative_error(a.cpu(), b) < 1e-9


CHOOSES = "class-competition"  # looks at the scores once, to say which classes compete


@pytest.mark.parametrize("name", [name for name in (*NAMES, *ATTENTION) if name != CHOOSES])
def test_nothing_waits_for_the_gpu(name, small, vit):
    net, x = there(*(vit if name in ATTENTION else small))
    method = attention(name, net) if name in ATTENTION else made(name, net)
    method.attribute(x, target=1)  # whatever is made once for all calls is made here
    target = torch.ones(len(x), dtype=torch.long, device=DEVICE)
    with Waiting():
        method.attribute(x, target=1)
        method.attribute(x, target=target)


@pytest.mark.parametrize("name", NAMES)
def test_no_memory_stays(name, small):
    net, x = there(*small)
    method = made(name, net)
    method.attribute(x, target=1)
    gc.collect()  # what other tests left
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        method.attribute(x, target=1)
    gc.collect()
    assert torch.cuda.memory_allocated() == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision(name, dtype, small):
    net, x = there(*small)
    for m in maps_of(made(name, net.to(dtype)).attribute(x.to(dtype), 1)):
        assert m.dtype == dtype
        assert m.isfinite().all()
    with torch.autocast(DEVICE, dtype):
        for m in maps_of(made(name, net.float()).attribute(x.float(), 1)):
            assert m.isfinite().all()


@pytest.fixture
def maps():
    return torch.randn(4, 1, 24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def of_maps():
    """Each measure of maps alone: its name, and a function of maps and of boolean masks."""
    return {
        "spearman": lambda a, m: metrics.spearman(a, a.flip(0)),
        "pearson": lambda a, m: metrics.pearson(a, a.flip(0)),
        "abs_spearman": lambda a, m: metrics.abs_spearman(a, a.flip(0)),
        "hog_spearman": lambda a, m: metrics.hog_spearman(a.repeat(1, 1, 3, 3), a.flip(0).repeat(1, 1, 3, 3)),
        "ssim": lambda a, m: metrics.ssim(a, a.flip(0)),
        "top_k_intersection": lambda a, m: metrics.top_k_intersection(a, a.flip(0)),
        "sparseness": lambda a, m: metrics.sparseness(a),
        "complexity": lambda a, m: metrics.complexity(a),
        "effective_complexity": lambda a, m: metrics.effective_complexity(a, 0.5),
        "histogram_entropy": lambda a, m: metrics.histogram_entropy(a),
        "relevance_mass_accuracy": lambda a, m: metrics.relevance_mass_accuracy(a, m),
        "relevance_rank_accuracy": lambda a, m: metrics.relevance_rank_accuracy(a, m),
        "localisation_auc": lambda a, m: metrics.localisation_auc(a, m),
    }


@pytest.mark.parametrize("name", of_maps())
def test_measures_of_maps_are_those_of_the_cpu(name, maps):
    masks = maps.roll(3, -1) > 0.3
    function = of_maps()[name]
    expected = function(maps, masks)
    got = function(maps.to(DEVICE), masks.to(DEVICE))
    torch.testing.assert_close(torch.as_tensor(got).cpu(), torch.as_tensor(expected), rtol=1e-8, atol=1e-10)


def of_models():
    """Each measure of a model: its name, and a function of a network, a batch, a method and the map to look at."""
    return {
        "class_sensitivity": lambda net, x, method, m: metrics.class_sensitivity(method, x, net),
        "removal_contrast": lambda net, x, method, m: metrics.removal_contrast(net, x, m),
        "pixel_removal": lambda net, x, method, m: metrics.pixel_removal(net, x, m),
        "perturbation_curve": lambda net, x, method, m: metrics.perturbation_curve(net, x, m, 1),
        "ROAD": lambda net, x, method, m: metrics.perturbation_curve(net, x, m, 1, imputer="linear"),
        "symmetric_relevance_gain": lambda net, x, method, m: metrics.symmetric_relevance_gain(net, x, m, 1),
        "completeness_gap": lambda net, x, method, m: metrics.completeness_gap(net, x, x * m.mean(), 1),
        "linear_imputation": lambda net, x, method, m: metrics.linear_imputation(x, x[:, 0] > 0.5),
    }


def numbers(found):
    """All tensors that a measure returns, alone or with others."""
    if isinstance(found, torch.Tensor):
        return [found]
    values = found if isinstance(found, tuple) else vars(found).values()
    return [value for value in values if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("name", of_models())
def test_measures_of_models_are_those_of_the_cpu(name, small):
    net, x = small
    gpu, y = there(net, x)
    function = of_models()[name]
    m = torch.rand(3, 1, 12, 12, dtype=x.dtype, generator=torch.Generator().manual_seed(3))  # no two pixels are equal
    expected = numbers(function(net, x, cea.NormGrad(net, "conv3"), m))
    got = numbers(function(gpu, y, cea.NormGrad(gpu, "conv3"), m.to(DEVICE)))
    assert expected
    # The sensitivity is of each device's own maps: pixels that are equal but for rounding change their ranks.
    close = 2e-3 if name == "class_sensitivity" else 1e-7
    for a, b in zip(got, expected):
        torch.testing.assert_close(a.cpu(), b, rtol=close, atol=close, equal_nan=True)


def test_randomisation_and_the_model_after_it(small):
    gpu, y = there(*small)
    before = [t.clone() for t in gpu.state_dict().values()]
    found = metrics.parameter_randomization(cea.NormGrad(gpu, "conv3"), gpu, y, target=1)
    assert found.values.device.type in (DEVICE, "cpu")
    assert found.values.isfinite().any()
    metrics.smprt(cea.NormGrad(gpu, "conv3"), gpu, y, target=1, n_samples=2)
    metrics.emprt(cea.NormGrad(gpu, "conv3"), gpu, y, target=1)
    metrics.stability(cea.NormGrad(gpu, "conv3"), gpu, y, target=1, n_samples=2)
    assert all(torch.equal(a, b) for a, b in zip(before, gpu.state_dict().values()))


def test_a_compiled_model_is_explained_as_the_model(small):
    gpu, y = there(*small)
    expected = cea.NormGrad(gpu, "conv3").attribute(y, 1)
    compiled = torch.compile(gpu)
    assert relative_error(cea.NormGrad(compiled, gpu.conv3).attribute(y, 1), expected) < 1e-9


def test_a_model_in_channels_last(small):
    gpu, y = there(*small)
    expected = cea.NormGrad(gpu, "conv3").attribute(y, 1)
    gpu, y = gpu.to(memory_format=torch.channels_last), y.to(memory_format=torch.channels_last)
    assert relative_error(cea.NormGrad(gpu, "conv3").attribute(y, 1), expected) < 1e-9


def test_a_plain_forward_can_be_captured_in_a_graph_after_a_call():
    gpu = SmallNet().to(DEVICE).eval()
    x = torch.randn(2, 3, 12, 12, device=DEVICE)
    cea.NormGrad(gpu, "conv3").attribute(x, 1)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad():
        expected = gpu(x)
        with torch.cuda.graph(graph):
            found = gpu(x)
        graph.replay()
    torch.testing.assert_close(found, expected)
