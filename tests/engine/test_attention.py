"""Attention that is written out gives what PyTorch's fused functions give."""

from __future__ import annotations

import inspect
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from captum_extract_aggregate._engine.attention import opened_dot_product_attention, opened_multi_head_attention

NEEDS_GQA = "enable_gqa" not in str(F.scaled_dot_product_attention.__doc__)


def _close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mask", [None, "bool", "float", "causal", "row"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_dot_product_attention(mask, scale):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, n, 6, dtype=torch.float64) for n in (5, 7, 7))
    given = {None: None, "causal": None, "bool": torch.rand(5, 7) > 0.3, "float": torch.randn(2, 4, 5, 7).double()}
    given["row"] = torch.ones(5, 7, dtype=torch.bool)
    given["row"][2] = False
    how = {"attn_mask": given[mask], "is_causal": mask == "causal", "scale": scale}
    _close(opened_dot_product_attention(q, k, v, **how), F.scaled_dot_product_attention(q, k, v, **how))


@pytest.mark.skipif(NEEDS_GQA, reason="this version of PyTorch has no grouped queries")
def test_heads_of_queries_may_share_one_of_keys():
    q, k, v = (torch.randn(2, heads, 5, 6, dtype=torch.float64) for heads in (4, 2, 2))
    _close(
        opened_dot_product_attention(q, k, v, enable_gqa=True),
        F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
    )


class _Opening(TorchFunctionMode):
    """Opens multi-head attention, and lists what is called within."""

    def __init__(self):
        super().__init__()
        self.called = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.multi_head_attention_forward:
            with self:
                return opened_multi_head_attention(*args, **(kwargs or {}))
        self.called.append(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


MODULES = [
    {},
    {"bias": False},
    {"add_bias_kv": True},
    {"add_zero_attn": True},
    {"add_bias_kv": True, "add_zero_attn": True},
    {"kdim": 5, "vdim": 3},
    {"batch_first": True},
]
CALLS = [
    {"need_weights": weights, "average_attn_weights": average, "attn_mask": mask, "key_padding_mask": padding}
    for weights, average, mask, padding in itertools.product(
        [True, False], [True, False], [None, "bool", "float", "heads"], [None, "bool", "float"]
    )
]


@pytest.mark.parametrize("arguments", MODULES, ids=str)
def test_multi_head_attention(arguments):
    torch.manual_seed(1)
    module = nn.MultiheadAttention(8, 2, **arguments).double().eval()
    for p in module.parameters():
        nn.init.normal_(p)
    widths = (8, arguments.get("kdim", 8), arguments.get("vdim", 8))
    query, key, value = (torch.randn(n, 3, w, dtype=torch.float64) for n, w in zip((4, 6, 6), widths))
    if arguments.get("batch_first"):
        query, key, value = (t.transpose(0, 1) for t in (query, key, value))
    masks = {None: None, "bool": torch.rand(4, 6) > 0.7, "float": torch.randn(4, 6, dtype=torch.float64)}
    masks["heads"] = torch.randn(6, 4, 6, dtype=torch.float64)
    paddings = {None: None, "bool": torch.zeros(3, 6, dtype=torch.bool), "float": torch.randn(3, 6).double()}
    masks["bool"][:, 0] = False
    paddings["bool"][1, 4:] = True
    for call in CALLS:
        how = {**call, "attn_mask": masks[call["attn_mask"]], "key_padding_mask": paddings[call["key_padding_mask"]]}
        same = (
            [(query, key, value)] if key.shape[-1] != 8 or value.shape[-1] != 8 else [(query, key, value), (key,) * 3]
        )
        for given in same:
            if given[0] is given[1] and call["attn_mask"]:
                continue
            expected = module(*given, **how)
            with _Opening() as mode:
                got = module(*given, **how)
            _close(got[0], expected[0])
            assert (got[1] is None) == (expected[1] is None)
            if expected[1] is not None:
                _close(got[1], expected[1])
            assert "linear" in mode.called


def test_one_example_without_a_batch_and_a_causal_mask():
    module = nn.MultiheadAttention(8, 2).double().eval()
    x = torch.randn(5, 8, dtype=torch.float64)
    mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    for how in (
        {},
        {"attn_mask": mask, "is_causal": True},
        {"attn_mask": mask, "is_causal": True, "need_weights": False},
    ):
        expected = module(x, x, x, **how)
        with _Opening():
            got = module(x, x, x, **how)
        _close(got[0], expected[0])


def test_keys_and_values_may_be_given():
    torch.manual_seed(2)
    x = torch.randn(4, 3, 8, dtype=torch.float64)
    static = torch.randn(6, 5, 4, dtype=torch.float64)
    weights = [torch.randn(24, 8), torch.randn(24), torch.randn(8, 8), torch.randn(8)]
    win, bin_, wout, bout = (w.double() for w in weights)
    given = (x, x, x, 8, 2, win, bin_, None, None, False, 0.0, wout, bout)
    how = {"static_k": static, "static_v": static + 1}
    _close(opened_multi_head_attention(*given, **how)[0], F.multi_head_attention_forward(*given, **how)[0])


def test_the_arguments_are_pytorchs():
    ours = inspect.signature(opened_multi_head_attention).parameters
    theirs = inspect.signature(F.multi_head_attention_forward).parameters
    assert list(ours) == list(theirs)
