"""Fused attention, written out: the steps that PyTorch's kernels take at once, as functions that can be seen.

Both functions take the arguments of those they stand for and give their results within rounding. They consist of plain
operations (linear, matmul, add, softmax, dropout, matmul) in PyTorch's own order, so that a `TorchFunctionMode` that is
active while they run meets every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_extract_aggregate._common.tensors import on_cpu

_HEADS = -3  # the dimension of the heads in queries, keys and values


def opened_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Returns what `F.scaled_dot_product_attention` does, step by step."""
    if enable_gqa:  # several heads of queries share one of keys and values
        key = key.repeat_interleave(query.shape[_HEADS] // key.shape[_HEADS], _HEADS)
        value = value.repeat_interleave(query.shape[_HEADS] // value.shape[_HEADS], _HEADS)
    weights = attention_weights(query, key, attn_mask, is_causal, scale)
    if dropout_p > 0:
        weights = F.dropout(weights, dropout_p)
    return torch.matmul(weights, value)


def attention_weights(
    query: Tensor, key: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, scale: float | None = None
) -> Tensor:
    """Returns the softmax of the scaled products of queries and keys; a row that a mask rules out wholly is 0."""
    factor = math.sqrt(1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    logits = torch.matmul(query * factor, key.transpose(-2, -1) * factor)
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is None:
        return torch.softmax(logits, -1)
    mask = _as_added(attn_mask, query.dtype)
    weights = torch.softmax(logits + mask, -1)
    ruled_out = (mask == -math.inf).all(-1, keepdim=True)
    none_is = on_cpu(mask) and not bool(ruled_out.any())
    return weights if none_is else weights.masked_fill(ruled_out, 0)


def _as_added(mask: Tensor, dtype: torch.dtype, passes: bool = True) -> Tensor:
    """Returns a mask as what is added to the logits; of booleans, `passes` are those that let through."""
    if mask.dtype != torch.bool:
        return mask
    out = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return out.masked_fill(~mask if passes else mask, -math.inf)


class _Projected(NamedTuple):
    """Queries, keys and values, `length x batch x width`."""

    query: Tensor
    key: Tensor
    value: Tensor


def opened_multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Returns what `F.multi_head_attention_forward` does, step by step. Its kernel for the attention itself is called
    where it would be (without weights asked for): a mode that sees that call may open it, too."""
    is_batched = query.ndim == 3
    if not is_batched:
        query, key, value = query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    length, batch, width = query.shape
    groups, size = batch * num_heads, width // num_heads
    padding = None if key_padding_mask is None else _as_added(key_padding_mask, query.dtype, passes=False)
    attn_mask, is_causal = _checked_mask(attn_mask, is_causal, padding is None, need_weights, query.dtype)
    weights_in: Any = (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else in_proj_weight
    q, k, v = _projected(query, key, value, weights_in, in_proj_bias)
    added = 0
    if bias_k is not None and bias_v is not None:
        k, v = torch.cat([k, bias_k.repeat(1, batch, 1)]), torch.cat([v, bias_v.repeat(1, batch, 1)])
        added += 1
    q = q.view(length, groups, size).transpose(0, 1)
    k = k.view(len(k), groups, size).transpose(0, 1) if static_k is None else static_k
    v = v.view(len(v), groups, size).transpose(0, 1) if static_v is None else static_v
    if add_zero_attn:
        k, v = (torch.cat([t, t.new_zeros(groups, 1, size)], 1) for t in (k, v))
        added += 1
    mask = _merged(attn_mask, padding, added, num_heads)
    dropout_p = dropout_p if training else 0.0
    attend = _attended_with_weights if need_weights else _attended
    out, weights = attend(_Projected(q, k, v), mask, dropout_p, is_causal, (batch, num_heads, length))
    out = F.linear(out, out_proj_weight, out_proj_bias).view(length, batch, -1)
    if weights is not None:
        weights = weights.mean(1) if average_attn_weights else weights
    if not is_batched:
        return out.squeeze(1), None if weights is None else weights.squeeze(0)
    return out, weights


def _projected(query: Tensor, key: Tensor, value: Tensor, weights: Any, bias: Tensor | None) -> _Projected:
    """Projects by one packed weight, at once where queries, keys and values are the same, or by three."""
    if isinstance(weights, Tensor):
        if query is key and key is value:
            packed = F.linear(query, weights, bias).unflatten(-1, (3, query.shape[-1])).movedim(-2, 0).contiguous()
            return _Projected(*packed.unbind(0))
        weights = weights.chunk(3)
    biases = (None, None, None) if bias is None else bias.chunk(3)
    return _Projected(*(F.linear(t, w, b) for t, w, b in zip((query, key, value), weights, biases)))


def _merged(mask: Tensor | None, padding: Tensor | None, added: int, heads: int) -> Tensor | None:
    """Returns the mask with that of the padding, and with the keys that were added, which nothing rules out."""
    if mask is not None and added:
        mask = F.pad(mask, (0, added))
    if padding is None:
        return mask
    padding = F.pad(padding, (0, added)) if added else padding
    batch, keys = padding.shape
    spread = padding.view(batch, 1, 1, keys).expand(-1, heads, -1, -1).reshape(batch * heads, 1, keys)
    return spread if mask is None else mask + spread


def _checked_mask(
    mask: Tensor | None, is_causal: bool, unpadded: bool, need_weights: bool, dtype: torch.dtype
) -> tuple[Tensor | None, bool]:
    """Returns the mask as what is added, and whether the kernel makes a causal one by itself, in its place."""
    if mask is None or (is_causal and unpadded and not need_weights):
        return None, is_causal and mask is not None
    mask = _as_added(mask, dtype, passes=False)
    return mask.unsqueeze(0) if mask.ndim == 2 else mask, is_causal and unpadded


def _attended_with_weights(
    of: _Projected, mask: Tensor | None, dropout_p: float, is_causal: bool, shape: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Returns the heads' results side by side, `(length * batch) x width`, and the weights of each head."""
    batch, heads, length = shape
    scaled, keys = of.query * math.sqrt(1 / of.query.shape[-1]), of.key.transpose(-2, -1)
    weights = torch.softmax(torch.bmm(scaled, keys) if mask is None else torch.baddbmm(mask, scaled, keys), -1)
    if dropout_p > 0:
        weights = F.dropout(weights, dropout_p)
    out = torch.bmm(weights, of.value).transpose(0, 1).reshape(length * batch, -1)
    return out, weights.view(batch, heads, length, -1)


def _attended(
    of: _Projected, mask: Tensor | None, dropout_p: float, is_causal: bool, shape: tuple[int, int, int]
) -> tuple[Tensor, None]:
    """Returns the same by the kernel, which keeps its weights to itself."""
    batch, heads, length = shape
    if mask is not None:
        mask = mask.unsqueeze(0) if len(mask) == 1 else mask.view(batch, heads, -1, mask.shape[-1])
    q, k, v = (t.view(batch, heads, -1, t.shape[-1]) for t in of)
    out = F.scaled_dot_product_attention(q, k, v, mask, dropout_p, is_causal)
    return out.permute(2, 0, 1, 3).reshape(batch * length, -1), None


OPENED_ATTENTION: dict[Any, Callable[..., Any]] = {
    F.scaled_dot_product_attention: opened_dot_product_attention,
    F.multi_head_attention_forward: opened_multi_head_attention,
}
