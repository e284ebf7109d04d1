"""The rules of operations that move the parts of dimensions about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_extract_aggregate._engine.dimension_call import Call, Found, rule, rule_of_first
from captum_extract_aggregate._engine.labels import Labels
from captum_extract_aggregate._engine.parts import CHANNELS, Dim, Dims, Part, kinds_of, reshaped, size_of

# Operations on one tensor that move its dimensions about


@rule_of_first(
    "permute|transpose|swapaxes|swapdims|movedim|moveaxis|t|adjoint|T|mT|H|mH|unsqueeze|squeeze|transpose_|"
    "mean|sum|amax|amin|max|min|std|var|var_mean|std_mean|norm|logsumexp|prod|median|nanmean|vector_norm"
)
def _reordering(call: Call, dims: Dims) -> Found | None:
    """Asks the operation itself which dimensions it permutes or drops, by a tensor of sizes that tell them apart."""
    if len(call.args) > 1 and isinstance(call.args[1], Tensor):  # max(a, b)
        return None
    sizes = [101 + d if n > 1 else 1 for d, n in enumerate(call.x.shape)]
    probe = torch.empty(sizes, device="meta", dtype=call.x.dtype)
    shown = call.func(probe, *call.args[1:], **call.kwargs)
    shown = shown if isinstance(shown, (tuple, list)) else [shown]
    return [tuple(dims[n - 101] if n > 1 else () for n in t.shape) for t in shown]


@rule_of_first("view|reshape|flatten|unflatten|view_as|reshape_as|_unsafe_view|ravel")
def _reshaping(call: Call, dims: Dims) -> Found:
    return [reshaped(dims, call.out.shape)]


@rule_of_first("__getitem__")
def _indexing(call: Call, dims: Dims) -> Found:
    index = call.args[1]
    return [_indexed(call.labels, dims, index if isinstance(index, tuple) else (index,), call.out)]


@rule_of_first("select")
def _selecting(call: Call, dims: Dims) -> Found:
    index = (*[slice(None)] * (call.args[1] % call.x.ndim), call.args[2])
    return [_indexed(call.labels, dims, index, call.out)]


@rule_of_first("index_select")
def _selecting_many(call: Call, dims: Dims) -> Found:
    at = call.args[1] % call.x.ndim
    if kinds_of(dims[at]) == {"batch"}:
        return [dims]
    return [_gathered(call.labels, dims, (*[slice(None)] * at, call.args[2]), call.out)]


def _indexed(labels: Labels, dims: Dims, index: tuple[Any, ...], out: Tensor) -> Dims | None:
    if any(isinstance(i, (Tensor, list)) and not isinstance(i, bool) for i in index):
        return _gathered(labels, dims, index, out)
    used = sum(i is not None and i is not Ellipsis for i in index)
    if not any(i is Ellipsis for i in index):
        index = (*index, Ellipsis)
    at = next(i for i, entry in enumerate(index) if entry is Ellipsis)
    full = (*index[:at], *[slice(None)] * (len(dims) - used), *index[at + 1 :])
    rest, result = list(dims), list[Dim]()
    for entry in full:
        if entry is None:
            result.append(())
            continue
        dim = rest.pop(0)
        if isinstance(entry, slice):
            start, stop, step = entry.indices(size_of(dim))
            result.append(_sliced(labels, dim, start, len(range(start, stop, step)), step))
    return tuple(result)


def _gathered(labels: Labels, dims: Dims, index: tuple[Any, ...], out: Tensor) -> Dims | None:
    """Returns the dimensions after one list of indices along one of them: the others stay."""
    if out.ndim != len(dims) or any(i is None or i is Ellipsis for i in index):
        return None
    if any(not isinstance(i, slice) or i != slice(None) for i in index[:-1]):
        return None
    at = len(index) - 1
    is_channel = kinds_of(dims[at]) <= CHANNELS
    moved = labels.sized(dims[at], out.shape[at]) if is_channel else labels.axis(out.shape[at])
    return (*dims[:at], moved, *dims[at + 1 :])


def _sliced(labels: Labels, dim: Dim, start: int, length: int, step: int) -> Dim:
    if length == size_of(dim) and step == 1:
        return dim
    if len(dim) != 1 or not dim[0].inner or step != 1 or length <= 1:
        return labels.sized(dim, length)
    part = dim[0]
    end = part.before + size_of(part.inner)
    if start + length <= part.before or start >= end:
        return (Part("extra", length),)
    if start > part.before or start + length < end:
        return labels.axis(length)
    before = part.before - start
    if length == end - part.before:
        return part.inner
    return (part._replace(size=length, before=before),)


@rule_of_first("chunk|split|tensor_split|split_with_sizes")
def _splitting(call: Call, dims: Dims) -> Found:
    outputs = call.outputs
    changed = [d for d in range(call.x.ndim) if any(t.shape[d] != call.x.shape[d] for t in outputs)]
    if len(changed) != 1:
        return [dims if len(outputs) == 1 else None] * len(outputs)
    at, start, result = changed[0], 0, list[Dims | None]()
    for t in outputs:
        result.append((*dims[:at], _sliced(call.labels, dims[at], start, t.shape[at], 1), *dims[at + 1 :]))
        start += t.shape[at]
    return result


@rule_of_first("unbind")
def _unbinding(call: Call, dims: Dims) -> Found:
    at = call.dim(call.x.ndim)
    return [dims[:at] + dims[at + 1 :]] * len(call.outputs)


@rule_of_first("pad|interpolate|upsample.*|pixel_(un)?shuffle|expand|expand_as|narrow")
def _resizing(call: Call, dims: Dims) -> Found:
    return [call.labels.resized(dims, call.out.shape)]


@rule_of_first("repeat|tile")
def _repeating(call: Call, dims: Dims) -> Found:
    return [_with_copies(call, dims, lambda dim, copies: (*copies, *dim))]


@rule_of_first("repeat_interleave")
def _interleaving(call: Call, dims: Dims) -> Found:
    return [_with_copies(call, dims, lambda dim, copies: (*dim, *copies))]


def _with_copies(call: Call, dims: Dims, beside: Callable[[Dim, Dim], Dim]) -> Dims:
    """Returns the dimensions where each example is repeated: copies are no further examples."""
    resized = list(call.labels.resized(dims, call.out.shape))
    for d, dim in enumerate(dims, start=-len(dims)):
        if kinds_of(dim) == {"batch"}:
            resized[d] = beside(dim, call.labels.axis(call.out.shape[d] // size_of(dim)))
    return tuple(resized)


@rule_of_first("roll")
def _rolling(call: Call, dims: Dims) -> Found:
    given = dict(zip(("shifts", "dims"), call.args[1:]), **call.kwargs)
    shifts, over = (given.get(name, ()) for name in ("shifts", "dims"))
    pairs = zip(*((value,) if isinstance(value, int) else tuple(value) for value in (shifts, over)))
    result: Dims | None = dims if over != () else None  # else it rolls what is flattened
    for shift, d in pairs:
        rolled = None if result is None else _rolled(dims[d], shift)
        result = (
            None
            if result is None or rolled is None
            else (*result[: d % len(dims)], rolled, *result[d % len(dims) + 1 :])
        )
    return [result]


def _rolled(dim: Dim, shift: int) -> Dim | None:
    """Returns a dimension that was rolled; None where its parts are not those of one axis, in order."""
    if kinds_of(dim) <= CHANNELS:
        return dim
    axes = [part.axis for part in dim]
    if len({axis[0] for axis in axes if axis}) != 1 or axes != sorted(axes) or any(part.inner for part in dim):
        return None
    return tuple(part._replace(shift=(part.shift + shift) % size_of(dim)) for part in dim)


@rule_of_first("stft")
def _spectra(call: Call, dims: Dims) -> Found:
    return [(*dims[:-1], *(call.labels.axis(n) for n in call.out.shape[len(dims) - 1 :]))]


# Operations that take several tensors


@rule("gather|take_along_dim|sort|argsort|rot90|tensordot|kron|cdist|bilinear|fold")
def _shuffling(call: Call) -> Found:
    """Loses what was known: positions go anywhere."""
    return [None] * len(call.outputs)


@rule("cat|concat|concatenate")
def _concatenation(call: Call) -> Found:
    at, out, labels = call.dim(call.x.ndim), call.out, call.labels
    labelled = [dims for dims in call.known if dims is not None and len(dims) == out.ndim]
    shape = [*out.shape[:at], 1, *out.shape[at + 1 :]]
    rest = labels.merged([(*dims[:at], (), *dims[at + 1 :]) for dims in labelled], shape)
    joined = None if rest is None else _joined(call, at, rest)
    return [None if rest is None or joined is None else (*rest[:at], joined, *rest[at + 1 :])]


def _joined(call: Call, at: int, rest: Dims) -> Dim | None:
    """Returns the dimension along which tensors are concatenated; None where they contradict each other there."""
    size = call.out.shape[at]
    placed = [(i, dims[at]) for i, dims in enumerate(call.known) if dims is not None and kinds_of(dims[at]) - {"extra"}]
    kinds = {p.kind for _, dim in placed for p in dim}
    is_open = kinds == {"unknown"} and not {p.kind for dim in rest for p in dim} & CHANNELS
    if is_open and len({dim for _, dim in placed}) == 1 and len(placed[0][1]) == 1:
        return (placed[0][1][0]._replace(size=size),)
    if kinds & CHANNELS and not kinds - CHANNELS - {"unknown"}:
        return (Part("channel", size),)
    if len(placed) == 1 and not kinds & {"batch", "state"}:
        i, dim = placed[0]
        before = sum(t.shape[at] for t in call.tensors[:i])
        if len(dim) == 1 and dim[0].inner:
            before, dim = before + dim[0].before, dim[0].inner
        return (Part("axis", size, dim[0].axis, call.labels.tell(dim, "axis"), before),)
    if kinds & CHANNELS or "batch" in kinds:
        return None
    return (Part("state", size),) if "state" in kinds else call.labels.axis(size)


@rule("stack")
def _stack(call: Call) -> Found:
    out = call.out
    at = call.dim(out.ndim)
    labelled = [dims for dims in call.known if dims is not None]
    merged = call.labels.merged(labelled, [*out.shape[:at], *out.shape[at + 1 :]])
    return [None if merged is None else (*merged[:at], call.labels.axis(out.shape[at]), *merged[at:])]
