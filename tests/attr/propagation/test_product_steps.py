"""Relevance through attention: the literal rules, lxt's operations, the balanced gradient."""

import math

import captum.attr
import pytest
import torch
import torchvision
from torch import nn

import captum_extract_aggregate as cea
from tests.conftest import relative_error
from tests.networks import Attending
from tests.reference import relevance_by_index
from tests.reference.attention_relevance import Block, balanced_gradient, relevance


class Written(nn.Module):
    """A block with its attention written out."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x, fused=False)


def block(dtype=torch.float64):
    torch.manual_seed(0)
    return Block().to(dtype).eval(), torch.randn(2, 5, 6, dtype=dtype)


@pytest.mark.parametrize("attention", ["attnlrp", "cp"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_literal_reference(attention, dtype, tolerance):
    net, x = block(dtype)
    with torch.no_grad():
        exact = [relevance(net.double(), example.double(), 1, attention == "cp") for example in x]
    net = net.to(dtype)
    for model in (net, Written(net)):
        got = cea.LRP(model, attention=attention, epsilon=0).attribute(x, target=1)
        assert relative_error(got.double(), torch.stack(exact)) < tolerance


@pytest.mark.parametrize("attention", ["attnlrp", "cp"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_reference_by_index(attention, dtype, tolerance):
    """A second reference, written from the rules alone: sums over indices, no tensors."""
    torch.manual_seed(0)
    net = relevance_by_index.Tokens().double().eval()
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    rows = [relevance_by_index.relevance(net, one.tolist(), 1, attention) for one in x]
    exact = torch.tensor(rows, dtype=torch.float64)
    got = cea.LRP(net.to(dtype), attention=attention, epsilon=0).attribute(x.to(dtype), target=1)
    assert relative_error(got.double(), exact) < tolerance


def test_attention_weights_held_are_the_balanced_gradient():
    net, x = block()
    expected = balanced_gradient(net, x, 1) * x
    for epsilon in (0, 1e-12):
        got = cea.LRP(net, attention="cp", epsilon=epsilon).attribute(x, target=1)
        assert relative_error(got, expected) < 1e-8
    by_wrapper = cea.LibraGrad(captum.attr.InputXGradient(net)).attribute(x, target=1)
    assert relative_error(by_wrapper, expected) < 1e-8


@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 4, 5)])
def test_against_lxt(shape):
    """The operations of another library, each alone: softmax, products of matrices and of entries, LayerNorm."""
    functional = pytest.importorskip("lxt.explicit.functional")
    torch.manual_seed(0)
    x, y = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    weight, bias = torch.randn(shape[-1], dtype=torch.float64), 9 + torch.rand(shape[-1], dtype=torch.float64)
    matrix, epsilon = torch.randn(3, shape[-1], dtype=torch.float64), 1e-9
    cases = {
        "softmax": (
            lambda t: t.softmax(-1) @ matrix.T,
            lambda t: functional.linear_epsilon(functional.softmax(t, -1), matrix, None, epsilon),
        ),
        "matmul": (lambda t: t @ t.mT, lambda t: functional.matmul(t, t.mT, False, epsilon)),
        "product": (lambda t: t * (t + y), lambda t: functional.mul2(t, functional.add2(t, y, False, epsilon))),
        "layer norm": (
            lambda t: nn.functional.layer_norm(t, shape[-1:], weight, bias),
            lambda t: functional.layer_norm(t, weight, bias, 1e-5),
        ),
    }

    class Net(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, t):
            return self.function(t).flatten(1).sum(1)

    for name, (ours, theirs) in cases.items():
        leaf = x.clone().requires_grad_()
        output = theirs(leaf)
        # From the sum of all entries, as ours: each gets its share of the score.
        (expected,) = torch.autograd.grad(output, leaf, output.detach())
        got = cea.LRP(Net(ours), epsilon=epsilon).attribute(x)
        assert relative_error(got, expected) < 1e-6, name


def test_every_way_to_attend_agrees():
    """`nn.MultiheadAttention` with and without weights asked for, and masks."""
    torch.manual_seed(0)

    class Asking(nn.Module):
        def __init__(self, need_weights):
            super().__init__()
            torch.manual_seed(1)
            self.attention, self.need = nn.MultiheadAttention(8, 2, batch_first=True), need_weights
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            mask = torch.ones(6, 6, dtype=torch.bool).triu(1)
            return self.head(self.attention(x, x, x, attn_mask=mask, need_weights=self.need)[0].mean(1))

    x = torch.randn(2, 6, 8, dtype=torch.float64)
    for attention in ("attnlrp", "cp"):
        maps = [
            cea.LRP(Asking(need).double().eval(), attention=attention, epsilon=0).attribute(x, target=0)
            for need in (True, False)
        ]
        assert relative_error(maps[0], maps[1]) < 1e-8
        assert torch.isfinite(maps[0]).all()


@pytest.mark.parametrize("attention", ["attnlrp", "cp"])
def test_vision_transformer_is_explained_like_its_examples(attention):
    torch.manual_seed(0)
    vit = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3).double().eval()
    nn.init.normal_(vit.heads.head.weight)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    method = cea.LRP(vit, attention=attention)
    together = method.attribute(x, target=1)
    alone = torch.cat([method.attribute(example[None], target=1) for example in x])
    assert relative_error(together, alone) < 1e-9
    delta = method.compute_convergence_delta(x, target=1)
    torch.testing.assert_close(together.sum((1, 2, 3)) - vit(x)[:, 1].detach(), delta)
    assert cea.LRP(vit, "encoder.layers.encoder_layer_0", gamma=0.25, attention=attention).attribute(x, 1).shape[1] == 1


def test_no_relevance_passes_a_function_without_a_rule_and_is_no_error():
    class Cubes(nn.Module):
        def forward(self, x):
            return nn.functional.linear(x.pow(3), torch.ones(1, 3))

    assert not cea.LRP(Cubes()).attribute(torch.zeros(1, 3), target=0).any()
    with pytest.raises(ValueError, match=r"no rule for torch\.Tensor\.pow"):
        cea.LRP(Cubes()).attribute(torch.ones(1, 3), target=0)


def test_attention_is_checked():
    net, _ = block()
    with pytest.raises(ValueError, match="did you mean 'attnlrp'"):
        cea.LRP(net, attention="attnlrp2")
    with pytest.raises(ValueError, match="attention"):
        cea.ExcitationBackprop(net).attribute(torch.randn(1, 5, 6, dtype=torch.float64), target=0)
    assert math.isfinite(float(cea.LRP(net, gamma=math.inf).attribute(torch.randn(1, 5, 6).double(), 0).sum()))


@pytest.mark.parametrize("layer", [None, "patches", "encoder"])
def test_pytorch_s_own_layer_which_has_a_fused_kernel_of_its_own(layer):
    torch.manual_seed(0)
    net, x = Attending().double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    relevance, delta = cea.LRP(net, layer).attribute(x, target=1, return_convergence_delta=True)
    torch.testing.assert_close(relevance.flatten(1).sum(1) - delta, net(x)[:, 1].detach())


def test_low_precision_and_autocast():
    torch.manual_seed(0)
    vit = torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=5).eval()
    nn.init.normal_(vit.heads.head.weight)
    x = torch.randn(2, 3, 32, 32)
    exact = cea.LRP(vit, gamma=0.25).attribute(x, target=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = cea.LRP(vit, gamma=0.25).attribute(x, target=1)
    low = cea.LRP(vit.bfloat16(), gamma=0.25).attribute(x.bfloat16(), target=1)
    assert low.dtype == torch.bfloat16
    for other in (mixed, low.float()):
        assert nn.functional.cosine_similarity(other.flatten(), exact.flatten(), dim=0) > 0.97
