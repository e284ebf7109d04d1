"""LRP through a transformer, number by number: the rules' sums over indices, on lists of Python floats.

Written from the definitions alone (Achtibat et al., ICML 2024, section 3; Ali et al., ICML 2022), without autograd and
without a stabiliser. A matrix is a list of rows, one for each token.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

Vector = list[float]
Matrix = list[Vector]


class Weighted:
    """y_o = sum_i W_oi x_i + b_o at each token; R_i = sum_o W_oi x_i R_o / y_o, and biases keep their share."""

    def __init__(self, weight: Matrix, bias: Vector) -> None:
        self.weight, self.bias = weight, bias

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor) -> Weighted:
        return cls(weight.tolist(), bias.tolist())

    def forward(self, rows: Matrix) -> Matrix:
        return [
            [sum(w * x for w, x in zip(ws, row, strict=True)) + b for ws, b in zip(self.weight, self.bias, strict=True)]
            for row in rows
        ]

    def back(self, rows: Matrix, relevance: Matrix) -> Matrix:
        result = [[0.0 for _ in row] for row in rows]
        for token, outputs in enumerate(self.forward(rows)):
            for (o, y), (i, x) in itertools.product(enumerate(outputs), enumerate(rows[token])):
                result[token][i] += self.weight[o][i] * x * relevance[token][o] / y
        return result


class Normalised:
    """Layer normalisation, 1/sigma a constant: y_o = sum_i gain_o (d_oi - 1/n) / sigma x_i + shift_o."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self.gain, self.shift, self.eps = norm.weight.tolist(), norm.bias.tolist(), norm.eps

    def weighted(self, row: Vector) -> Weighted:
        n = len(row)
        mean = sum(row) / n
        sigma = math.sqrt(sum((x - mean) ** 2 for x in row) / n + self.eps)
        matrix = [[self.gain[o] * ((o == i) - 1 / n) / sigma for i in range(n)] for o in range(n)]
        return Weighted(matrix, self.shift)

    def forward(self, rows: Matrix) -> Matrix:
        return [self.weighted(row).forward([row])[0] for row in rows]

    def back(self, rows: Matrix, relevance: Matrix) -> Matrix:
        return [self.weighted(row).back([row], [r])[0] for row, r in zip(rows, relevance, strict=True)]


class Head:
    """O_jp = sum_i A_ji V_ip with A_j = softmax(S_j), S_ji = T_ji / sqrt(d), T_ji = sum_p Q_jp K_ip."""

    def __init__(self, q: Matrix, k: Matrix, v: Matrix) -> None:
        self.q, self.k, self.v = q, k, v
        self.tokens, self.width = range(len(v)), range(len(v[0]))
        self.products = [[sum(a * b for a, b in zip(qj, ki, strict=True)) for ki in k] for qj in q]
        self.scores = [[t / math.sqrt(len(self.width)) for t in row] for row in self.products]
        exponentials = [[math.exp(s) for s in row] for row in self.scores]
        self.weights = [[e / sum(row) for e in row] for row in exponentials]
        self.output = [
            [sum(self.weights[j][i] * v[i][p] for i in self.tokens) for p in self.width] for j in self.tokens
        ]

    def back_cp(self, given: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        """The weights are constants: R(V_ip) = sum_j A_ji V_ip R_jp / O_jp, and nothing for queries and keys."""
        at_values = self.nothing()
        for j, i, p in self.indices():
            at_values[i][p] += self.weights[j][i] * self.v[i][p] * given[j][p] / self.output[j][p]
        return self.nothing(), self.nothing(), at_values

    def back_attnlrp(self, given: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        """Half of a product's relevance goes to each factor; R_i = S_i (R_i - A_i sum_j R_j) at the softmax."""
        q, k, v = self.nothing(), self.nothing(), self.nothing()
        at_weights = [[0.0 for _ in self.tokens] for _ in self.tokens]
        for j, i, p in self.indices():
            share = self.weights[j][i] * self.v[i][p] * given[j][p] / (2 * self.output[j][p])
            at_weights[j][i] += share
            v[i][p] += share
        for j, i, p in self.indices():
            at_score = self.scores[j][i] * (at_weights[j][i] - self.weights[j][i] * sum(at_weights[j]))
            share = self.q[j][p] * self.k[i][p] * at_score / (2 * self.products[j][i])
            q[j][p] += share
            k[i][p] += share
        return q, k, v

    def indices(self) -> Iterator[tuple[int, int, int]]:
        return itertools.product(self.tokens, self.tokens, self.width)

    def nothing(self) -> Matrix:
        return [[0.0 for _ in self.width] for _ in self.tokens]


def added(a: Matrix, b: Matrix) -> Matrix:
    return [[x + y for x, y in zip(one, other, strict=True)] for one, other in zip(a, b, strict=True)]


def shared(part: Matrix, whole: Matrix, relevance: Matrix) -> Matrix:
    """R_a = a R / (a + b)."""
    return [[x / z * r for x, z, r in zip(*rows, strict=True)] for rows in zip(part, whole, relevance, strict=True)]


def gelu(rows: Matrix) -> Matrix:
    return [[x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in row] for row in rows]


class Block(nn.Module):
    """A pre-norm transformer block: x + attention(norm(x)), then x + down(gelu(up(norm(x))))."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.up, self.act, self.down = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        return x + self.down(self.act(self.up(self.norm2(x))))


class Tokens(nn.Module):
    """Tokens with positions, a block, and a head at the first token."""

    def __init__(self, tokens: int = 4, width: int = 6, heads: int = 2, classes: int = 3) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.empty(tokens, width))
        self.block, self.norm, self.head = Block(width, heads, 5), nn.LayerNorm(width), nn.Linear(width, classes)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.7)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.block(x + self.positions))[:, 0])


def relevance(net: Tokens, tokens: Matrix, target: int, attention: str) -> Matrix:
    """R of each number of one example's tokens, for the logit of one class."""
    block, positions = net.block, net.positions.tolist()
    before, middle, last = Normalised(block.norm1), Normalised(block.norm2), Normalised(net.norm)
    qkv = Weighted.of(block.attention.in_proj_weight, block.attention.in_proj_bias)
    out = Weighted.of(block.attention.out_proj.weight, block.attention.out_proj.bias)
    up, down = (Weighted.of(layer.weight, layer.bias) for layer in (block.up, block.down))
    head = Weighted.of(net.head.weight, net.head.bias)
    count, width = block.attention.num_heads, len(tokens[0])
    size = width // count

    x = added(tokens, positions)
    normed = before.forward(x)
    projected = qkv.forward(normed)
    heads = []
    for h in range(count):
        columns = [slice(part * width + h * size, part * width + (h + 1) * size) for part in range(3)]
        heads.append(Head(*([row[chosen] for row in projected] for chosen in columns)))
    joined = [[value for one in heads for value in one.output[j]] for j in range(len(x))]
    attended = out.forward(joined)
    y = added(x, attended)
    normed_y = middle.forward(y)
    raised = up.forward(normed_y)
    fed = down.forward(gelu(raised))
    z = added(y, fed)
    normed_z = last.forward(z)

    at_logits = [[value if c == target else 0.0 for c, value in enumerate(head.forward([normed_z[0]])[0])]]
    at_first = head.back([normed_z[0]], at_logits)
    r = last.back(z, at_first + [[0.0] * width for _ in z[1:]])
    fed_r = down.back(gelu(raised), shared(fed, z, r))  # an activation passes relevance as it is
    r = added(shared(y, z, r), middle.back(y, up.back(normed_y, fed_r)))
    joined_r = out.back(joined, shared(attended, y, r))
    parts = []
    for h, one in enumerate(heads):
        given = [row[h * size : (h + 1) * size] for row in joined_r]
        parts.append(one.back_cp(given) if attention == "cp" else one.back_attnlrp(given))
    projected_r = [[value for part in range(3) for one in parts for value in one[part][j]] for j in range(len(x))]
    r = added(shared(x, y, r), before.back(x, qkv.back(normed, projected_r)))
    return shared(tokens, x, r)
