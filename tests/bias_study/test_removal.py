import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torchvision.ops import FrozenBatchNorm2d

from captum_extract_aggregate.bias_study import biases_removed, biases_scaled, remove_biases
from captum_extract_aggregate.bias_study.removal import bias_tensors, count_biases
from captum_extract_aggregate.data import load_scene_model
from tests.bias_study.networks import Transformer, images, network
from tests.faults import snapshot
from tests.networks import CifarResNet20, lively
from tests.reference import bias_study as reference

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")


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
            "computed anew",
        ),
        (lambda: pruned("bias"), ValueError, "prune.remove"),
        (
            lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 3), "bias", dim=None)),
            ValueError,
            "remove_weight_norm",
        ),
        (lambda: nn.Sequential(nn.LazyBatchNorm2d(affine=False)), ValueError, "layer '0' .* has not run yet"),
    ],
)
def test_what_cannot_be_removed_is_an_error(make, error, said):
    for use in (remove_biases, lambda model: biases_removed(model).__enter__()):
        with pytest.raises(error, match=said):
            use(make())


@pytest.mark.parametrize("scale", [float("nan"), "half", None])
def test_a_scale_that_is_no_finite_number(scale):
    with pytest.raises(ValueError, match="expected a finite number"):
        biases_scaled(network(), scale).__enter__()


def pruned(part):
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 5)).double().eval()
    prune.random_unstructured(model[1], part, amount=2)
    with torch.no_grad():
        model(images(1))  # prunes anew
    return model


def test_a_model_that_cannot_be_copied():
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3)))
    model(torch.randn(2, 4))  # which leaves a computed weight
    with pytest.raises(ValueError, match=r"(?s)cannot be copied .* or torch\.nn\.utils\.remove_weight_norm first"):
        remove_biases(model)
    with biases_removed(model):
        torch.testing.assert_close(model(torch.zeros(2, 4)), torch.zeros(2, 3))


class OwnLinear(nn.Module):
    """As some libraries write it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))
        self.bias = nn.Parameter(torch.randn(3))
        self.q_bias = nn.Parameter(torch.randn(3))
        self.position_bias = nn.Parameter(torch.randn(3))
        self.register_buffer("bias_mask", torch.ones(3))

    def forward(self, x):
        return x @ self.weight + self.bias + self.q_bias


def test_layers_of_other_libraries_and_scripted_ones():
    own = OwnLinear()
    assert list(bias_tensors(own)) == ["bias", "q_bias"]
    assert list(bias_tensors(nn.LSTM(3, 2))) == ["bias_ih_l0", "bias_hh_l0"]
    model, x = network(torch.float32), images(2, torch.float32)
    wanted = remove_biases(model)(x)
    traced = torch.jit.trace(model, x)
    before = traced(x)
    torch.testing.assert_close(remove_biases(traced)(x), wanted)
    with biases_removed(traced):
        torch.testing.assert_close(traced(x), wanted)
    assert torch.equal(traced(x), before)
