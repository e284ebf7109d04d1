"""Which softmaxes are attention's, whose they are, and what is handed on."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.attention_seen import AttentionSeen
from tests.networks import Attending

Q = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))


def seen_of(run, change=lambda weights: weights):
    found = []

    def see(running, logits, weights):
        found.append((running, logits, weights))
        return change(weights)

    with Undo() as undo, undo:
        AttentionSeen(see).begin(undo)
        output = run()
    assert torch.overrides._get_current_function_mode_stack() == []
    return found, output


@pytest.mark.parametrize(
    ("run", "count"),
    [
        (lambda: F.scaled_dot_product_attention(Q, Q, Q), 1),
        (lambda: (Q @ Q.mT).softmax(-1), 1),
        (lambda: torch.softmax(Q, dim=3), 1),
        (lambda: F.softmax(Q, dim=1), 0),  # not over keys
        (lambda: F.softmax(Q[0, 0], dim=-1), 0),  # of classes
        (lambda: Q.relu(), 0),
    ],
)
def test_what_is_attention(run, count):
    found, output = seen_of(run)
    assert len(found) == count
    torch.testing.assert_close(output, run())
    for _, logits, weights in found:
        torch.testing.assert_close(logits.softmax(-1), weights)


def test_the_weights_that_are_given_back_go_on():
    _, output = seen_of(lambda: F.scaled_dot_product_attention(Q, Q, Q), torch.zeros_like)
    assert not output.any()


def test_they_belong_to_the_running_layers_innermost_first():
    net = Attending().eval()
    ((running, _, weights),), _ = seen_of(lambda: net(torch.randn(2, 3, 8, 8)))
    assert [type(m) for m in running][:2] == [nn.MultiheadAttention, nn.TransformerEncoderLayer]
    assert weights.shape[-2:] == (16, 16)
    assert list(cea.attention_layers(net, torch.randn(2, 3, 8, 8))) == ["encoder.self_attn"]
