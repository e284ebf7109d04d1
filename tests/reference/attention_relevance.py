"""A transformer block and its relevance, slow and literal: each rule over all contributions at once.

Tokens `T x D`, one example. Every contribution is written out: `z[j, i, p]` is what input i adds to output (j, p).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Normalisation, attention with a position bias, residual, normalisation, GELU, residual, mean, scores."""

    def __init__(self, width: int = 6, heads: int = 2, classes: int = 3) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down, self.head = nn.Linear(width, 8), nn.Linear(8, width), nn.Linear(width, classes)
        self.position = nn.Parameter(torch.randn(heads, 5, 5))
        for norm in (self.norm1, self.norm2):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, x: Tensor, fused: bool = True, held: bool = False) -> Tensor:
        """`held` is the balanced gradient's forward: what gates or normalises is detached."""
        y = _norm(x, self.norm1, held)
        q, k, v = (part(y).unflatten(-1, (self.heads, -1)).transpose(-3, -2) for part in (self.q, self.k, self.v))
        if fused:
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, self.position)
        else:
            weights = (q @ k.mT / math.sqrt(self.size) + self.position).softmax(-1)
            mixed = (weights.detach() if held else weights) @ v
        x = x + self.out(mixed.transpose(-3, -2).flatten(-2))
        y = self.up(_norm(x, self.norm2, held))
        y = y * ((1 + torch.erf(y / math.sqrt(2))) / 2).detach() if held else nn.functional.gelu(y)
        return self.head((x + self.down(y)).mean(-2))


def _norm(x: Tensor, norm: nn.LayerNorm, held: bool) -> Tensor:
    if not held:
        return norm(x)
    centred = x - x.mean(-1, keepdim=True)
    return centred / (x.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt().detach() * norm.weight + norm.bias


def balanced_gradient(net: Block, x: Tensor, target: int) -> Tensor:
    """The gradient with attention weights, the GELU's gate and standard deviations held constant."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(net(x, fused=False, held=True)[:, target].sum(), x)[0]


def relevance(net: Block, x: Tensor, target: int, cp: bool) -> Tensor:
    """R at the tokens of one example, `T x D`, by AttnLRP, or with attention weights held: CP-LRP."""
    H, d = net.heads, net.size
    n1 = net.norm1(x)
    q, k, v = (part(n1).reshape(-1, H, d).permute(1, 0, 2) for part in (net.q, net.k, net.v))
    q_scaled = q / math.sqrt(d)
    logits = torch.einsum("hjd,hid->hji", q_scaled, k)
    with_bias = logits + net.position
    s = torch.exp(with_bias) / torch.exp(with_bias).sum(-1, keepdim=True)
    mixed = torch.einsum("hji,hip->hjp", s, v)
    flat = mixed.permute(1, 0, 2).reshape(len(x), -1)
    attended = net.out(flat)
    x1 = x + attended
    n2 = net.norm2(x1)
    up = net.up(n2)
    g = nn.functional.gelu(up)
    down = net.down(g)
    x2 = x1 + down
    mean = x2.mean(0)
    logit = net.head(mean)[target]

    R_mean = mean * net.head.weight[target] / logit * logit
    R_x2 = x2 / x2.sum(0) * R_mean
    R_x1, R_down = x1 / x2 * R_x2, down / x2 * R_x2
    R_up = linear(net.down, g, R_down)  # the GELU passes R unchanged
    R_x1 = R_x1 + normalised(net.norm2, x1, linear(net.up, n2, R_up))
    R_x, R_attended = x / x1 * R_x1, attended / x1 * R_x1
    R_mixed = linear(net.out, flat, R_attended).reshape(-1, H, d).permute(1, 0, 2)
    R_s, R_v = product(s, v, R_mixed)
    if cp:
        R_n1 = linear(net.v, n1, tokens(2 * R_v))
    else:
        R_with_bias = with_bias * (R_s - s * R_s.sum(-1, keepdim=True))
        R_q, R_k = product(q_scaled, k.mT, logits / with_bias * R_with_bias)
        sent = zip((net.q, net.k, net.v), (R_q, R_k.mT, R_v))
        R_n1 = torch.stack([linear(part, n1, tokens(R)) for part, R in sent]).sum(0)
    return R_x + normalised(net.norm1, x, R_n1)


def tokens(t: Tensor) -> Tensor:
    """Heads x T x d as T x D."""
    return t.permute(1, 0, 2).reshape(t.shape[1], -1)


def linear(layer: nn.Linear, a: Tensor, R: Tensor) -> Tensor:
    """In proportion to `a_i w_pi`, the bias taking its share."""
    z = a[:, None, :] * layer.weight[None]  # token, output, input
    return (z / (z.sum(-1) + layer.bias)[..., None] * R[..., None]).sum(1)


def product(A: Tensor, V: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    """`R(A_ji) = sum_p A_ji V_ip / (2 O_jp) R_jp`, `R(V_ip) = sum_j A_ji V_ip / (2 O_jp) R_jp`."""
    z = A[..., :, :, None] * V[..., None, :, :]  # heads, j, i, p
    shares = z / (2 * z.sum(-2, keepdim=True)) * R[..., :, None, :]
    return shares.sum(-1), shares.sum(-3)


def normalised(norm: nn.LayerNorm, x: Tensor, R: Tensor) -> Tensor:
    """By the epsilon rule on `(x - mean) / sigma * w + b`, sigma held: each output's contributions by each input."""
    width = x.shape[-1]
    centring = torch.eye(width, dtype=x.dtype) - 1 / width
    sigma = (x.var(-1, unbiased=False) + norm.eps).sqrt()
    z = centring[None] * x[:, None, :] / sigma[:, None, None] * norm.weight[None, :, None]
    return (z / (z.sum(-1) + norm.bias)[..., None] * R[..., None]).sum(1)
