"""One example behind a BatchNorm has the gradient that it has in a batch, however that gradient lies in memory."""

import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate._engine.gradient_layout import as_it_lies, lay_out_graph


class Tokens(nn.Module):
    """Positions become tokens behind a BatchNorm, as in XCiT and EfficientFormer."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.Linear(5, 5)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x):
        tokens = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
        return (tokens + self.head(tokens.relu())).mean(1)


@pytest.mark.parametrize(
    "make",
    [
        lambda model: cea.LayerGradient(model, "conv"),
        lambda model: cea.GuidedBackprop(model, "conv"),
        lambda model: cea.LibraGrad(cea.LinearApproximation(model, "conv")),
        lambda model: cea.LRP(model, "conv"),
    ],
)
def test_one_example_is_what_it_is_in_a_batch(make):
    torch.manual_seed(0)
    model, x = Tokens().double().eval(), torch.randn(2, 3, 7, 7, dtype=torch.float64)
    method = make(model)
    torch.testing.assert_close(method.attribute(x[:1], target=1), method.attribute(x, target=1)[:1])
    assert not model.norm._forward_hooks


def test_a_norm_at_which_nothing_arrives():
    """CP-LRP sends nothing through a softmax, and queries and keys may have norms of their own, as in LeViT."""

    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.query, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            x = self.conv(x)
            query = self.norm(self.query(x)).flatten(2)
            weights = (query.transpose(1, 2) @ query).softmax(-1)
            return (x.flatten(2) @ weights.transpose(1, 2)).mean(2)

    torch.manual_seed(0)
    method = cea.LRP(Attending().double().eval(), attention="cp")
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(method.attribute(x[:1], target=1), method.attribute(x, target=1)[:1])


def test_only_strides_that_a_batch_would_not_have_are_laid_out():
    odd = torch.randn(1, 49, 5).transpose(1, 2).unflatten(2, (7, 7))
    assert as_it_lies(odd).is_contiguous()
    assert torch.equal(as_it_lies(odd), odd)
    for g in (
        torch.randn(1, 5, 7, 7),
        torch.randn(1, 5, 7, 7).contiguous(memory_format=torch.channels_last),
        odd.expand(2, 5, 7, 7),
    ):
        assert as_it_lies(g) is g


@pytest.mark.parametrize(
    ("behind", "turns"),
    [
        (lambda t: t.relu().mean((2, 3)), False),
        (lambda t: (nn.functional.silu(t) + t.clone()).flatten(1), False),
        (lambda t: torch.cat([t, t], 1).mean((2, 3)), True),
        (lambda t: t.flatten(2).transpose(1, 2).mean(1), True),
        (lambda t: t.chunk(5, 1)[0].mean((2, 3)), True),
        (lambda t: t.sum((2, 3)), True),
    ],
)
def test_only_graphs_that_may_turn_a_gradient_are_watched(behind, turns):
    norm, watched = nn.BatchNorm2d(5).eval(), []
    normalized = norm(torch.randn(1, 5, 4, 4, requires_grad=True))
    node = normalized.grad_fn
    out = behind(normalized)
    assert node.name() == "NativeBatchNormBackward0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "captum_extract_aggregate._engine.gradient_layout.as_it_lies", lambda g: watched.append(g.shape) or g
        )
        lay_out_graph(out.grad_fn)
        out.backward(torch.ones_like(out))
    assert watched == [normalized.shape] * turns


def test_a_plain_pass_puts_no_hook_on_a_batch_norm():
    model, x = Tokens().eval(), torch.randn(1, 3, 7, 7)
    model.head.register_forward_hook(lambda *_: found.append(len(model.norm._forward_hooks)))
    found = []
    cea.NormGrad(model, "conv").attribute(x, target=1)
    assert found == [0]
