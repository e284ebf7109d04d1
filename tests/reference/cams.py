"""CAMs by their papers' formulas, one example, channel and position at a time."""

from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def _positions(t: Tensor) -> list[tuple[int, ...]]:
    return list(product(*(range(n) for n in t.shape[2:])))


def _map(x: Tensor, value) -> Tensor:
    out = torch.zeros(x.shape[0], 1, *x.shape[2:], dtype=x.dtype)
    for i, u in product(range(len(x)), _positions(x)):
        out[(i, 0, *u)] = value(i, u)
    return out


def _positive(value) -> float:
    return max(float(value), 0.0)


def hirescam(x: Tensor, g: Tensor) -> Tensor:
    """(sum_k g_k x_k)+ (Draelos and Carin, 2020)."""
    return _map(x, lambda i, u: _positive(sum(g[(i, k, *u)] * x[(i, k, *u)] for k in range(x.shape[1]))))


def element_wise_gradcam(x: Tensor, g: Tensor) -> Tensor:
    """sum_k (g_k x_k)+."""
    return _map(x, lambda i, u: sum(_positive(g[(i, k, *u)] * x[(i, k, *u)]) for k in range(x.shape[1])))


def layercam(x: Tensor, g: Tensor) -> Tensor:
    """(sum_k (g_k)+ x_k)+ (Jiang et al., 2021, equations 6-8)."""
    return _map(x, lambda i, u: _positive(sum(_positive(g[(i, k, *u)]) * x[(i, k, *u)] for k in range(x.shape[1]))))


def xgradcam(x: Tensor, g: Tensor) -> Tensor:
    """(sum_k w_k x_k)+, w_k = sum_v x_v / (sum of x) g_v (Fu et al., 2020, equation 8); 0 where the sum is 0."""
    weights = torch.zeros(x.shape[:2], dtype=x.dtype)
    for i, k in product(range(x.shape[0]), range(x.shape[1])):
        total = sum(x[(i, k, *v)] for v in _positions(x))
        if total != 0:
            weights[i, k] = sum(x[(i, k, *v)] / total * g[(i, k, *v)] for v in _positions(x))
    return _map(x, lambda i, u: _positive(sum(weights[i, k] * x[(i, k, *u)] for k in range(x.shape[1]))))


def guided_gradcam(guided: Tensor, gradcam: Tensor, mode: str) -> Tensor:
    """What guided backprop sends to the input, times GradCAM brought to its size (Selvaraju et al., 2017)."""
    return torch.stack([g * interpolate(m[None], g.shape[1:], mode=mode)[0] for g, m in zip(guided, gradcam)])


def refinecam(maps: list[Tensor], size: tuple[int, int]) -> Tensor:
    """The product over layers of maps that are upsampled and scaled from 0 to 1, example by example."""
    rows = []
    for i in range(len(maps[0])):
        row = torch.ones(1, *size, dtype=maps[0].dtype)
        for m in maps:
            full = interpolate(m[i : i + 1], size, mode="bilinear", align_corners=False)[0]
            row = row * (full - full.min()) / (full.max() - full.min())
        rows.append(row)
    return torch.stack(rows)


def finer_score(scores: Tensor, target: int, gamma: float, references: int) -> Tensor:
    """y_c - gamma * mean of the scores of the classes nearest to y_c (Zhang et al., 2025), of one example `classes`."""
    others = [d for d in range(len(scores)) if d != target]
    known = scores.tolist()
    nearest = sorted(others, key=lambda d: abs(known[d] - known[target]))[:references]
    return scores[target] - gamma * sum(scores[d] for d in nearest) / len(nearest)
