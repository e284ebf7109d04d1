"""GradCAM and its positive relatives by the definitions, one example, channel and position at a time."""

from itertools import product

import torch
from torch import Tensor


def _positions(t: Tensor) -> list[tuple[int, ...]]:
    return list(product(*(range(n) for n in t.shape[2:])))


def _mean_gradient(g: Tensor, i: int, k: int) -> Tensor:
    positions = _positions(g)
    return sum((g[(i, k, *u)] for u in positions), torch.zeros((), dtype=g.dtype)) / len(positions)


def _make_positive(value: Tensor, positive: str) -> Tensor:
    return value.abs() if positive == "abs" else value.clamp(min=0)


def gradcam(x: Tensor, g: Tensor) -> Tensor:
    """(sum_k w_k A^k)+."""
    out = torch.zeros(x.shape[0], 1, *x.shape[2:], dtype=x.dtype)
    for i, u in product(range(len(x)), _positions(x)):
        total = sum(_mean_gradient(g, i, k) * x[(i, k, *u)] for k in range(x.shape[1]))
        out[(i, 0, *u)] = max(total, torch.zeros(()))
    return out


def gradcam_pos(x: Tensor, g: Tensor, positive: str) -> Tensor:
    """Sum over the channels of |w_k A^k|, or of its positive part."""
    out = torch.zeros(x.shape[0], 1, *x.shape[2:], dtype=x.dtype)
    for i, u, k in product(range(len(x)), _positions(x), range(x.shape[1])):
        out[(i, 0, *u)] += _make_positive(_mean_gradient(g, i, k) * x[(i, k, *u)], positive)
    return out


def grad_mid(g: Tensor, positive: str) -> Tensor:
    """Sum over the channels of |g|, or of its positive part."""
    out = torch.zeros(g.shape[0], 1, *g.shape[2:], dtype=g.dtype)
    for i, u, k in product(range(len(g)), _positions(g), range(g.shape[1])):
        out[(i, 0, *u)] += _make_positive(g[(i, k, *u)], positive)
    return out


def gradcam_plus_plus(x: Tensor, g: Tensor, normalize_alpha: bool = False) -> Tensor:
    """With alpha = g^2 / (2 g^2 + sum_v A_v g^3), 0 where that is 0 / 0 or g^2 / 0."""
    out = torch.zeros(x.shape[0], 1, *x.shape[2:], dtype=x.dtype)
    for i in range(len(x)):
        weights = []
        for k in range(x.shape[1]):
            activity = sum(x[(i, k, *v)] for v in _positions(x))
            alpha = {}
            for u in _positions(x):
                d = g[(i, k, *u)]
                denominator = 2 * d**2 + activity * d**3
                alpha[u] = d**2 / denominator if denominator != 0 else torch.zeros((), dtype=x.dtype)
            if normalize_alpha:
                total = sum((alpha[u] for u in alpha if g[(i, k, *u)] > 0), torch.zeros((), dtype=x.dtype))
                alpha = {u: a / total if total != 0 else a for u, a in alpha.items()}
            weights.append(sum(alpha[u] * g[(i, k, *u)].clamp(min=0) for u in alpha))
        for u in _positions(x):
            out[(i, 0, *u)] = sum(w * x[(i, k, *u)] for k, w in enumerate(weights)).clamp(min=0)
    return out


def psi(m: Tensor, size: tuple[int, int]) -> Tensor:
    """|.|, each example from 0 to 1, bilinear; a constant map is 0."""
    rows = []
    for single in m:
        a = single.abs()
        scaled = (a - a.min()) / (a.max() - a.min()) if a.max() > a.min() else torch.zeros_like(a)
        rows.append(torch.nn.functional.interpolate(scaled[None], size, mode="bilinear", align_corners=False)[0])
    return torch.stack(rows)


def cumulative_gradcam(pairs: list[tuple[Tensor, Tensor]], size: tuple[int, int], positive: str) -> Tensor:
    """The sum over the layers, of which each gives an activation and a gradient, of psi(GradCAM_Pos)."""
    return sum((psi(gradcam_pos(x, g, positive), size) for x, g in pairs), torch.zeros(()))


def cumulative_gradmid(pairs: list[tuple[Tensor, Tensor]], size: tuple[int, int], positive: str) -> Tensor:
    """The sum over the layers of psi(GradMid)."""
    return sum((psi(grad_mid(g, positive), size) for _, g in pairs), torch.zeros(()))
