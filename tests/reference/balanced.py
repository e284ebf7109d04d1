"""Balanced gradients, literally: networks that hold what gates or normalises by `detach`, and plain gradients of them.

Each network computes the same with `held` as without; with it, autograd gives the balanced gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """A transformer block, of plain operations; its feed-forward part is gated (SwiGLU)."""

    def __init__(self, width: int, heads: int, held: bool) -> None:
        super().__init__()
        self.heads, self.held = heads, held
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)
        self.gain, self.shift = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(width))

    def hold(self, t: Tensor) -> Tensor:
        """Returns the tensor, cut from the graph in the reference."""
        return t.detach() if self.held else t

    def norm(self, x: Tensor) -> Tensor:
        """Layer normalisation, written out."""
        centred = x - x.mean(-1, keepdim=True)
        spread = (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return centred / self.hold(spread) * self.gain + self.shift

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(self.norm(x)).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        weights = self.hold((q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1))
        x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))
        gate, signal = self.up(self.norm(x)).chunk(2, -1)
        activated = gate * torch.sigmoid(gate)
        return x + self.down(self.hold(activated) * signal)


class Transformer(nn.Module):
    """Patches, a class token, positions, blocks, a GELU in front of the head, and a gate by squeeze-and-excitation."""

    block: type[Block] = Block

    def __init__(self, held: bool = False) -> None:
        super().__init__()
        self.held = held
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8))
        self.blocks = nn.Sequential(self.block(8, 2, held), self.block(8, 2, held))
        self.squeeze, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = self.blocks(torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions)
        gate = torch.sigmoid(self.squeeze(x.mean(1, keepdim=True)))
        x = (x * (gate.detach() if self.held else gate))[:, 0]
        return self.head(self.activated(x))

    def activated(self, x: Tensor) -> Tensor:
        """GELU."""
        phi = (1 + torch.erf(x / math.sqrt(2))) / 2
        return x * (phi.detach() if self.held else phi)


class FastBlock(Block):
    """The same by PyTorch's own functions."""

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        normed = torch.layer_norm(x, (width,), self.gain, self.shift)
        parts = self.qkv(normed).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(*parts.unbind(0))
        x = x + self.out(attended.transpose(1, 2).reshape(x.shape))
        gate, signal = self.up(torch.layer_norm(x, (width,), self.gain, self.shift)).chunk(2, -1)
        return x + self.down(nn.functional.silu(gate) * signal)


class Fast(Transformer):
    """A transformer of those."""

    block = FastBlock

    def activated(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x)
