"""Slow, literal references for maps of attention: a small transformer written out with its weights, loop by loop."""

import math

import torch


def forward(net, x, hold=None):
    """Return a VisionTransformer's scores and each block's weights A, with those of `hold` (by block) instead."""
    hold = hold or {}
    n, width = x.shape[0], net.hidden_dim
    patches = net.conv_proj(x).reshape(n, width, -1).permute(0, 2, 1)
    tokens = torch.cat([net.class_token.expand(n, -1, -1), patches], 1) + net.encoder.pos_embedding
    seen = []
    for number, block in enumerate(net.encoder.layers):
        mha = block.self_attention
        size = width // mha.num_heads
        y = block.ln_1(tokens)
        q, k, v = (y @ w.T + b for w, b in zip(mha.in_proj_weight.chunk(3), mha.in_proj_bias.chunk(3)))
        weights = []
        for head in range(mha.num_heads):
            part = slice(head * size, (head + 1) * size)
            logits = q[:, :, part] @ k[:, :, part].transpose(1, 2) / math.sqrt(size)
            weights.append(torch.exp(logits) / torch.exp(logits).sum(-1, keepdim=True))
        a = hold.get(number, torch.stack(weights, 1))
        seen.append(a)
        heads = [a[:, h] @ v[:, :, h * size : (h + 1) * size] for h in range(mha.num_heads)]
        tokens = tokens + mha.out_proj(torch.cat(heads, -1))
        tokens = tokens + block.mlp(block.ln_2(tokens))
    return net.heads(net.encoder.ln(tokens)[:, 0]), seen


def legrad(net, x, target, blocks, times_weights=False):
    """Return the mean over blocks, heads and queries of (dF/dA)+ (or of (A dF/dA)+) at each key, on the grid."""
    total = 0
    for block in blocks:
        with torch.no_grad():
            a = forward(net, x)[1][block]
        a = a.clone().requires_grad_()
        scores = forward(net, x, {block: a})[0]
        (g,) = torch.autograd.grad(scores[:, target].sum(), a)
        of = (a * g if times_weights else g).detach()
        n, heads, queries, keys = of.shape
        values = torch.zeros(n, keys, dtype=x.dtype)
        for h in range(heads):
            for q in range(queries):
                values += torch.where(of[:, h, q] > 0, of[:, h, q], torch.zeros(())) / (heads * queries)
        side = math.isqrt(keys - 1)
        total = total + values[:, 1:].reshape(n, 1, side, side) / len(blocks)
    return total


def rollout(net, x, blocks):
    """Return the class token's row of the product of half attention and half identity."""
    seen = forward(net, x)[1]
    n, _, tokens, _ = seen[0].shape
    product = torch.eye(tokens, dtype=x.dtype).expand(n, -1, -1)
    for block in sorted(blocks):
        mean = sum(seen[block][:, h] for h in range(seen[block].shape[1])) / seen[block].shape[1]
        product = (0.5 * mean + 0.5 * torch.eye(tokens, dtype=x.dtype)) @ product
    side = math.isqrt(tokens - 1)
    return product[:, 0, 1:].reshape(n, 1, side, side).detach()
