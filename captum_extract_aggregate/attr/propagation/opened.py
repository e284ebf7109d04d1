"""Functions that do several things at once, as functions of plain operations: relevance passes each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_extract_aggregate._engine.attention import OPENED_ATTENTION


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    signal, gate = input.chunk(2, dim)
    return signal * torch.sigmoid(gate)


def _baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return _scaled(input, beta) + _scaled(torch.bmm(batch1, batch2), alpha)


def _addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return _scaled(input, beta) + _scaled(torch.mm(mat1, mat2), alpha)


def _addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    return input + _scaled(tensor1 * tensor2, value)


def _scaled(t: Tensor, factor: float) -> Tensor:
    return t if factor == 1 else t * factor


OPENED: dict[Any, Callable[..., Any]] = {
    **OPENED_ATTENTION,
    F.glu: _glu,
    torch.baddbmm: _baddbmm,
    Tensor.baddbmm: _baddbmm,
    torch.addmm: _addmm,
    Tensor.addmm: _addmm,
    torch.addcmul: _addcmul,
    Tensor.addcmul: _addcmul,
}
