"""Slow, literal Extract & Aggregate (Rebuffi et al., CVPR 2020, section 3), for tests only.

Every summand is materialised entry by entry, one output position and one kernel tap at a time; no closed form is used.
Each function handles one example exactly as it handles it alone: nothing is shared across the batch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
CHANNELS_FIRST = (*CONVS, *TRANSPOSED_CONVS, *BATCH_NORMS, nn.GroupNorm, *INSTANCE_NORMS)
CHANNELS_LAST = (nn.Linear, nn.LayerNorm)

Index = tuple[int, ...]


def _positions(sizes: Index | torch.Size) -> list[Index]:
    """Every index of a grid of the given sizes, in row-major order."""
    return list(product(*(range(size) for size in sizes)))


def _at(position: Sequence[int | None]) -> tuple[Any, ...]:
    """Index expression for one position on the last axes, leaving the axes before them whole."""
    return (..., *position)


def _source_index(index: int, size: int, padding_mode: str) -> int | None:
    """The element of an axis of `size` elements that padding puts at `index`; None for a padded zero."""
    if 0 <= index < size:
        return index
    if padding_mode == "zeros":
        return None
    if padding_mode == "replicate":
        return 0 if index < 0 else size - 1
    if padding_mode == "circular":
        return index % size
    if padding_mode == "reflect":
        return -index if index < 0 else 2 * (size - 1) - index
    raise ValueError(f"unknown padding mode {padding_mode!r}")


def _patch(
    x: Tensor, position: Index, kernel: Index, stride: Index, pad: Index, dilation: Index, padding_mode: str
) -> Tensor:
    """The patch of x (N x C x *S) under the kernel at one output position: N x C x *kernel."""
    n, channels, *sizes = x.shape
    patch = x.new_zeros(n, channels, *kernel)
    for tap in _positions(kernel):
        source = []
        for axis, size in enumerate(sizes):
            index = position[axis] * stride[axis] + tap[axis] * dilation[axis] - pad[axis]
            source.append(_source_index(index, size, padding_mode))
        if None not in source:
            patch[_at(tap)] = x[_at(source)]
    return patch


def virtual_summands(extract: str, x: Tensor, g: Tensor) -> Tensor:
    """Summands of a virtual identity layer: x and g are N x K x *S, the result is N x *S x E.

    `extract` is "bias", "scaling", "convNxN" or "depthwiseNxN" with odd N; the window is N along each spatial axis,
    however many there are, with zero padding (N - 1) / 2. The entries are in the order of the identity layer's
    flattened parameter: K; K; K x K x window (g's channel, x's channel, tap); K x window (channel, tap).
    """
    if x.shape != g.shape:
        raise ValueError(f"x {tuple(x.shape)} and g {tuple(g.shape)} must have the same shape")
    sizes = x.shape[2:]
    dims = len(sizes)
    window = re.fullmatch(r"(conv|depthwise)(\d+)x(\d+)", extract)
    if extract not in ("bias", "scaling") and window is None:
        raise ValueError(f"unknown extract {extract!r}")
    if window is not None and (window[2] != window[3] or int(window[2]) % 2 == 0):
        raise ValueError(f"{extract!r}: the window must be N x N with odd N")

    per_position = []
    for u in _positions(sizes):
        g_u = g[_at(u)]
        x_u = x[_at(u)]
        if extract == "bias":
            summand = g_u
        elif extract == "scaling":
            summand = g_u * x_u
        else:
            assert window is not None
            side = int(window[2])
            patch = _patch(x, u, (side,) * dims, (1,) * dims, ((side - 1) // 2,) * dims, (1,) * dims, "zeros")
            patch = patch.flatten(2)
            if window[1] == "conv":
                summand = torch.einsum("no,nct->noct", g_u, patch)
            else:
                summand = torch.einsum("nk,nkt->nkt", g_u, patch)
        per_position.append(summand.flatten(1))
    stacked = torch.stack(per_position, dim=1)
    return stacked.reshape(x.shape[0], *sizes, stacked.shape[-1])


def _conv_summands(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor, g: Tensor) -> Tensor:
    """Entry [o, c, tap] at u: g_{o,u} times channel c (of o's group) of the input patch at u."""
    kernel, stride, dilation = tuple(module.kernel_size), tuple(module.stride), tuple(module.dilation)
    spans = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if module.padding == "same":  # the odd one of an odd total goes to the right
        before: Index = tuple(span // 2 for span in spans)
        after: Index = tuple(span - span // 2 for span in spans)
    elif module.padding == "valid":
        before = after = (0,) * len(kernel)
    else:
        before = after = tuple(int(p) for p in module.padding)
    expected = tuple(
        (size + before[axis] + after[axis] - spans[axis] - 1) // stride[axis] + 1
        for axis, size in enumerate(x.shape[2:])
    )
    if tuple(g.shape[2:]) != expected:
        raise ValueError(f"g has positions {tuple(g.shape[2:])}, the layer's output has {expected}")

    outs_per_group = module.out_channels // module.groups
    ins_per_group = module.in_channels // module.groups
    grid = _positions(expected)
    summands = x.new_zeros(x.shape[0], len(grid), *module.weight.shape)
    for p, u in enumerate(grid):
        patch = _patch(x, u, kernel, stride, before, dilation, module.padding_mode)
        for o in range(module.out_channels):
            first = (o // outs_per_group) * ins_per_group
            g_uo = g[:, o][_at(u)].reshape(-1, *(1 for _ in patch.shape[1:]))
            summands[:, p, o] = g_uo * patch[:, first : first + ins_per_group]
    return summands.reshape(x.shape[0], *expected, *module.weight.shape)


def _transposed_conv_summands(
    module: nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d, x: Tensor, g: Tensor
) -> Tensor:
    """Entry [i, o, tap] at u: x_i at the input position that reaches u through the tap (else 0), times g_{o,u}."""
    kernel, stride, dilation = tuple(module.kernel_size), tuple(module.stride), tuple(module.dilation)
    padding = tuple(int(p) for p in module.padding)
    sizes, positions = x.shape[2:], g.shape[2:]
    for axis, size in enumerate(sizes):  # any output_padding below the stride or the dilation is possible
        smallest = (size - 1) * stride[axis] - 2 * padding[axis] + dilation[axis] * (kernel[axis] - 1) + 1
        if not 0 <= positions[axis] - smallest < max(stride[axis], dilation[axis]):
            raise ValueError(f"g has {positions[axis]} positions along axis {axis}, not the layer's {smallest} or more")

    ins_per_group = module.in_channels // module.groups
    outs_per_group = module.out_channels // module.groups
    grid = _positions(positions)
    summands = x.new_zeros(x.shape[0], len(grid), *module.weight.shape)
    for p, u in enumerate(grid):
        for tap in _positions(kernel):
            source = []
            for axis, size in enumerate(sizes):  # u = source * stride - padding + tap * dilation
                scaled = u[axis] + padding[axis] - tap[axis] * dilation[axis]
                if scaled % stride[axis] == 0 and 0 <= scaled // stride[axis] < size:
                    source.append(scaled // stride[axis])
            if len(source) < len(sizes):
                continue
            for i in range(module.in_channels):
                first = (i // ins_per_group) * outs_per_group
                x_i = x[:, i][_at(source)].unsqueeze(1)
                summands[:, p, i][_at(tap)] = x_i * g[:, first : first + outs_per_group][_at(u)]
    return summands.reshape(x.shape[0], *positions, *module.weight.shape)


def _linear_summands(x: Tensor, g: Tensor) -> Tensor:
    """Entry [o, i] at u: g_{o,u} x_{i,u}, with channels last."""
    return g.unsqueeze(-1) * x.unsqueeze(-2)


def _standardise(values: Tensor, eps: float) -> Tensor:
    """(values - mean) / sqrt(biased variance + eps) over all the entries of `values`."""
    mean = values.sum() / values.numel()
    variance = ((values - mean) ** 2).sum() / values.numel()
    return (values - mean) / torch.sqrt(variance + eps)


def _normalised_input(module: nn.Module, x: Tensor) -> Tensor:
    """x-hat of a normalisation layer, in the format of x."""
    x_hat = torch.zeros_like(x)
    if isinstance(module, BATCH_NORMS) and (module.training or module.running_mean is None):
        raise ValueError("BatchNorm has a per-example summand only in eval mode with running statistics")
    if isinstance(module, BATCH_NORMS) or (
        isinstance(module, INSTANCE_NORMS) and module.track_running_stats and not module.training
    ):
        assert module.running_mean is not None
        assert module.running_var is not None
        for k in range(x.shape[1]):
            x_hat[:, k] = (x[:, k] - module.running_mean[k]) / torch.sqrt(module.running_var[k] + module.eps)
    elif isinstance(module, INSTANCE_NORMS):
        for n, k in product(range(x.shape[0]), range(x.shape[1])):
            x_hat[n, k] = _standardise(x[n, k], module.eps)
    elif isinstance(module, nn.GroupNorm):
        per_group = x.shape[1] // module.num_groups
        for n, group in product(range(x.shape[0]), range(module.num_groups)):
            members = slice(group * per_group, (group + 1) * per_group)
            x_hat[n, members] = _standardise(x[n, members], module.eps)
    elif isinstance(module, nn.LayerNorm):
        if tuple(module.normalized_shape) != (x.shape[-1],):
            raise ValueError("LayerNorm must normalise over the last dimension only")
        for u in _positions(x.shape[:-1]):
            x_hat[u] = _standardise(x[u], module.eps)
    else:
        raise TypeError(f"{type(module).__name__} is not a supported normalisation layer")
    return x_hat


def layer_summands(module: nn.Module, x: Tensor, g: Tensor) -> Tensor:
    """Summands of the gradient of `module.weight`: N x *S_out x (shape of the weight).

    x is the layer's input and g the gradient at its output, both in the layer's own format: N x C x *S for
    convolutions, BatchNorm, GroupNorm and InstanceNorm; N x *S x C for Linear and LayerNorm.
    """
    if isinstance(module, CONVS):
        return _conv_summands(module, x, g)
    if isinstance(module, TRANSPOSED_CONVS):
        return _transposed_conv_summands(module, x, g)
    if isinstance(module, nn.Linear):
        return _linear_summands(x, g)
    scaled = g * _normalised_input(module, x)
    return scaled if isinstance(module, CHANNELS_LAST) else scaled.movedim(1, -1)


def layer_bias_summands(module: nn.Module, g: Tensor) -> Tensor:
    """Summands of the gradient of `module.bias`, g_u itself, channels last: N x *S x K."""
    if isinstance(module, CHANNELS_LAST):
        return g
    if isinstance(module, CHANNELS_FIRST):
        return g.movedim(1, -1)
    raise TypeError(f"{type(module).__name__} is not a supported layer")


def aggregate(summands: Tensor, name: str, n_position_dims: int) -> Tensor:
    """One number per position: summands N x *S x (entry dims...) become N x *S."""
    c = summands.reshape(*summands.shape[: 1 + n_position_dims], -1)
    positive = c.clamp(min=0)
    if name == "norm":
        return torch.sqrt((c**2).sum(dim=-1))
    if name == "sum":
        return c.sum(dim=-1)
    if name == "max":
        return c.max(dim=-1).values
    if name == "max_abs":
        return c.abs().max(dim=-1).values
    if name == "filter_norm":
        return torch.sqrt((positive**2).sum(dim=-1))
    if name == "filter_sum":
        return positive.sum(dim=-1)
    if name == "sum_filter":
        return c.sum(dim=-1).clamp(min=0)
    if name == "abs_sum":
        return c.abs().sum(dim=-1)
    raise ValueError(f"unknown aggregate {name!r}")
