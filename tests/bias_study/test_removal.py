import copy

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from captum_extract_aggregate.bias_study import biases_removed, biases_scaled, remove_biases
from captum_extract_aggregate.bias_study.removal import bias_tensors, count_biases
from captum_extract_aggregate.data import load_scene_model
from tests.bias_study.networks import Transformer, images, network
from tests.networks import CifarResNet20, lively
from tests.reference import bias_study as reference
from tests.test_faults import snapshot


def frozen():
    norm = FrozenBatchNorm2d(4)
    torch.manual_seed(0)
    for t in (norm.weight, norm.bias, norm.running_mean):
        t.copy_(torch.randn(4))
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(400, 3)).double().eval()


@pytest.mark.parametrize("make", [network, lambda: lively(CifarResNet20()).double()])
def test_equals_the_reference(make):
    model, x = make(), images()
    wanted = reference.without_biases(model)(x)
    torch.testing.assert_close(remove_biases(model)(x), wanted, rtol=1e-10, atol=1e-10)
    with biases_removed(model):
        torch.testing.assert_close(model(x), wanted, rtol=1e-10, atol=1e-10)
    for scale in (0.3, 1.0, -2.0):
        wanted = reference.scaled_biases(model, scale)(x)
        with biases_scaled(model, scale):
            torch.testing.assert_close(model(x), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("make", [network, lambda: load_scene_model("vgg").double(), frozen])
def test_without_biases_a_network_of_relus_is_homogeneous(make):
    bare = remove_biases(make())
    x = torch.rand(2, 3, 12, 12, dtype=torch.float64)
    assert bare(x).abs().max() > 1e-6
    torch.testing.assert_close(bare(5 * x), 5 * bare(x), rtol=1e-9, atol=1e-12)


def test_the_model_is_left_alone():
    model, x = network(), images()
    before = snapshot(model, x)
    remove_biases(model)
    with biases_removed(model) as same:
        assert same is model
        model(x)
    assert snapshot(model, x) == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_comes_back_after_an_exception_and_after_writes(error):
    model, x = network(), images()
    before = snapshot(model, x)

    def fails():
        with biases_removed(model), biases_scaled(model, 2.0):
            model.conv1.bias.data.fill_(7.0)  # as training within would
            raise error

    with pytest.raises(error):
        fails()
    assert snapshot(model, x) == before


def test_which_tensors_are_biases():
    assert list(bias_tensors(network())) == [
        *("conv1.bias", "conv2.bias", "bn.bias", "bn.running_mean", "conv3.bias", "fc.bias"),
    ]
    assert count_biases(network()) == 6 + 6 + 6 + 8 + 5  # the norm's bias and mean act as one
    attention = [name for name in bias_tensors(Transformer()) if "self_attn" in name]
    assert attention == ["block.self_attn.in_proj_bias", "block.self_attn.out_proj.bias"]
    assert count_biases(nn.BatchNorm2d(4, affine=False)) == 4
    assert count_biases(nn.Conv2d(3, 4, 1, bias=False)) == 0


def test_a_transformer_runs_without_biases():
    model = lively(Transformer())
    x = images(dtype=torch.float32)
    wanted = copy.deepcopy(model)
    for name, p in wanted.named_parameters():
        if name.endswith("bias"):
            p.data.zero_()
    torch.testing.assert_close(remove_biases(model)(x), wanted(x))
    assert not torch.allclose(model(x), wanted(x))


def test_a_shared_bias_is_scaled_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].bias = model[0].bias
    value = model[0].bias.detach().clone()
    with biases_scaled(model, 0.5):
        torch.testing.assert_close(model[0].bias.detach(), 0.5 * value)
    assert model[1].bias is model[0].bias
    assert torch.equal(model[0].bias, value)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: lambda x: x, TypeError, "model is a function; expected a torch.nn.Module"),
        (lambda: nn.BatchNorm2d(3, track_running_stats=False), ValueError, "no running mean"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), ValueError, "layer '0' .* has not run yet"),
        (
            lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3), "bias", dim=None)),
            ValueError,
            "parametrised bias",
        ),
    ],
)
def test_what_cannot_be_removed_is_an_error(make, error, said):
    for use in (remove_biases, lambda model: biases_removed(model).__enter__()):
        with pytest.raises(error, match=said):
            use(make())


def test_a_scale_that_is_not_finite():
    with (
        pytest.raises(ValueError, match="scale is nan; expected a finite number"),
        biases_scaled(network(), float("nan")),
    ):
        pass
