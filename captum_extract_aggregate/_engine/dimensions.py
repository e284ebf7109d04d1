"""What each dimension of a tensor is, read off the operations that made it.

`Watch` is a `TorchFunctionMode`. While the model runs within it, every tensor carries along of what its dimensions are
made: of examples, of channels, of positions along some axis. A convolution makes channels in dimension 1, a linear
layer in the last, a recurrent layer runs along an axis of time; permuting, flattening, concatenating and the rest move
these parts about. What an operation does not tell stays unknown, and a tensor that an unfamiliar operation made has no
parts.

A forward within it costs more than one without: it is for those tensors alone whose shape leaves it open.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from captum_extract_aggregate._engine.operations import tensors_in


class Part(NamedTuple):
    """A factor of a dimension's size. Row-major: the last part of a dimension runs fastest.

    `kind`: "batch", "channel", "feature" (channels as far as one linear layer tells), "axis" (positions), "unknown" (a
    dimension of the inputs that nothing has told of), "state" (a recurrent layer's final states), "extra" (tokens
    without a position). `axis` orders positions, and begins alike for parts of one axis; those of the inputs' axes are
    below `FRESH`. Where `inner` is given, it is what lies behind `before` entries without a position (and before
    others, if it does not fill the part).
    """

    kind: str
    size: int
    axis: tuple[int, ...] = ()
    inner: tuple[Part, ...] = ()
    before: int = 0


Dim = tuple[Part, ...]
Dims = tuple[Dim, ...]  # a dimension of size 1 has no parts

FRESH = 1000
CHANNELS = {"channel", "feature"}
_REORDER = set(
    "permute transpose swapaxes swapdims movedim moveaxis t adjoint T mT H mH unsqueeze squeeze transpose_ "
    "mean sum amax amin max min std var var_mean std_mean norm logsumexp prod median nanmean vector_norm".split()
)
_RESHAPE = {"view", "reshape", "flatten", "unflatten", "view_as", "reshape_as", "_unsafe_view", "ravel"}
_RESIZE = re.compile(
    r"pad|interpolate|upsample.*|pixel_(un)?shuffle|repeat|tile|repeat_interleave|expand|expand_as|narrow"
)
_SPATIAL = re.compile(r".*pool[123]d.*|conv(_transpose)?[123]d")
_MATMUL = {"matmul", "bmm", "mm", "__matmul__", "__rmatmul__"}
_SHUFFLES = {"gather", "take_along_dim", "sort", "argsort", "rot90", "tensordot", "kron", "cdist", "bilinear", "fold"}
_RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu"}
_CELLS = {"lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}
_ATTENTION = {"multi_head_attention_forward", "_native_multi_head_attention"}


class Watch(TorchFunctionMode):
    """Follows the dimensions of the inputs through every operation within."""

    def __init__(self, inputs: Iterable[Tensor], batch: int) -> None:
        super().__init__()
        self._known = WeakIdKeyDictionary()
        self._told: dict[tuple[int, ...], str] = {}
        self._fresh = itertools.count(FRESH)
        self._batch = batch
        self.parameters: set[int] = set()  # those that a function was given
        for i, t in enumerate(inputs):
            first = Part("batch", batch) if t.ndim and t.shape[0] == batch else None
            parts = [Part("unknown", n, (10 * i + d,)) for d, n in enumerate(t.shape)]
            self._known[t] = tuple(
                (p,) if p.size > 1 else () for p in ([first or parts[0], *parts[1:]] if parts else [])
            )

    def dims(self, t: Tensor) -> Dims | None:
        """Returns the parts of each of a tensor's dimensions as far as has been told by now; None where they are
        lost."""
        dims = self._known.get(t)
        if dims is None or tuple(map(size_of, dims)) != tuple(t.shape):
            return None
        return self.told(dims)

    def told(self, dims: Dims) -> Dims:
        """Returns the same where what was unknown may have been told of since."""
        return tuple(
            tuple(p._replace(kind=self._told.get(p.axis, p.kind)) if p.kind == "unknown" else p for p in dim)
            for dim in dims
        )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _name(func)
        self.parameters.update(id(t) for t in tensors_in((args, kwargs)) if isinstance(t, nn.Parameter))
        before = [self._known.get(t) for t in tensors_in(args)]  # an operation in place relabels its input
        output = func(*args, **kwargs)
        outputs = list(output) if isinstance(output, (tuple, list)) else [output]
        if not any(isinstance(t, Tensor) for t in outputs):
            return output
        try:
            found = self._follow(func, name, args, kwargs, before, outputs)
        except Exception:  # an unforeseen form of a call: nothing is known of what it gives
            found = [None] * len(outputs)
        for t, dims in zip(outputs, found):
            if isinstance(t, Tensor):
                self._label(t, dims)
        return output

    def _label(self, t: Tensor, dims: Dims | None) -> None:
        if dims is not None and tuple(map(size_of, dims)) == tuple(t.shape):
            self._known[t] = dims
        else:
            self._known.pop(t, None)

    def _follow(
        self, func: Any, name: str, args: Any, kwargs: Any, before: list[Dims | None], outputs: list[Any]
    ) -> list[Dims | None]:
        tensors = tensors_in(args) or tensors_in(kwargs)
        known = before or [self._known.get(t) for t in tensors]
        if not any(dims is not None for dims in known):
            return [None] * len(outputs)
        if name in _SHUFFLES:
            return [None] * len(outputs)
        x, dims = tensors[0], known[0]
        if name in _MATMUL or name in ("addmm", "baddbmm", "linear"):
            a, b = known[1:3] if name in ("addmm", "baddbmm") else known[:2]
            a, b = (b, a) if name == "__rmatmul__" else (a, b)
            return [self._product(a, b, name == "linear", outputs[0])]
        if name == "einsum":
            return [self._einsum(args, outputs[0])]
        if name in ("cat", "concat", "concatenate"):
            return [self._joined(known, tensors, _dim(args, kwargs, tensors[0].ndim), outputs[0])]
        if name == "stack":
            return [self._stacked(known, _dim(args, kwargs, outputs[0].ndim), outputs[0])]
        if name == "scaled_dot_product_attention":
            q, _, v = known[:3]
            return [None if q is None or v is None else (*q[:-1], v[-1])]
        if name == "_pad_packed_sequence":
            return [self._padded(args, outputs[0]), *[None] * (len(outputs) - 1)]
        if dims is not None:
            one = self._one(func, name, x, dims, args, kwargs, outputs)
            if one is not NotImplemented:
                return one
        return [self._broadcast(known, t) if isinstance(t, Tensor) else None for t in outputs]

    def _one(self, func: Any, name: str, x: Tensor, dims: Dims, args: Any, kwargs: Any, outputs: list[Any]) -> Any:
        """Returns the outputs' dimensions where those of one input decide them."""
        out = outputs[0]
        if name in _REORDER:
            return self._reordered(func, x, dims, args, kwargs, outputs)
        if name in _RESHAPE:
            return [_reshaped(dims, out.shape)]
        if name in ("__getitem__", "select"):
            index = args[1] if name == "__getitem__" else (*[slice(None)] * (args[1] % x.ndim), args[2])
            return [self._indexed(dims, index, out)]
        if name in ("chunk", "split", "tensor_split", "split_with_sizes"):
            return self._pieces(dims, x, outputs)
        if name == "unbind":
            dim = _dim(args, kwargs, x.ndim)
            return [dims[:dim] + dims[dim + 1 :]] * len(outputs)
        if _SPATIAL.fullmatch(name):
            return [self._spatial(dims, t, "conv" in name) for t in outputs]
        if name in ("batch_norm", "instance_norm", "group_norm"):
            return [self._made_channels(dims, 1)]
        if name in ("layer_norm", "rms_norm"):
            over = args[1] if len(args) > 1 else kwargs["normalized_shape"]
            return [self._made_channels(dims, len(dims) - 1) if len(over) == 1 else dims]
        if name in _RECURRENT:
            return self._recurrent(x, dims, args, kwargs, outputs)
        if name in _CELLS:
            return [(*dims[:-1], (Part("channel", t.shape[-1]),)) for t in outputs]
        if name in _ATTENTION:
            return [self._made_channels(dims, len(dims) - 1), *[None] * (len(outputs) - 1)]
        if name == "embedding":
            table = args[0] if args[0].is_floating_point() else args[1]
            return [(*self._as_axes(dims), (Part("channel", table.shape[-1]),))]
        if name == "_pack_padded_sequence":
            return [(self._axis(out.shape[0]), (Part("channel", out.shape[1]),)), *[None] * (len(outputs) - 1)]
        if name == "index_select":
            at = args[1] % x.ndim
            return [
                dims if kinds_of(dims[at]) == {"batch"} else self._gathered(dims, (*[slice(None)] * at, args[2]), out)
            ]
        if name == "unfold":
            return [self._unfolded(dims, x, args, kwargs, out)]
        if name == "stft":
            return [(*dims[:-1], *(self._axis(n) for n in out.shape[len(dims) - 1 :]))]
        if _RESIZE.fullmatch(name):
            return [self._resized(dims, out)]
        return NotImplemented

    # Channels, axes

    def _axis(self, size: int) -> Dim:
        return (Part("axis", size, (next(self._fresh),)),) if size > 1 else ()

    def _tell(self, dim: Dim, kind: str) -> Dim:
        """Returns the dimension as one of channels or of positions; what it was in the inputs is remembered."""
        for part in dim:
            if part.kind == "unknown":
                self._told[part.axis] = kind
        return tuple(p._replace(kind=kind) if p.kind in ("unknown", *CHANNELS) else p for p in dim)

    def _as_axes(self, dims: Dims) -> Dims:
        return tuple(self._tell(dim, "axis") for dim in dims)

    def _made_channels(self, dims: Dims, at: int) -> Dims | None:
        """Returns the dimensions where an operation takes `at` for the channels, unless others are known to be."""
        others = {p.kind for d, dim in enumerate(dims) if d != at for p in dim}
        if "channel" in others:
            return dims
        if "feature" in others:
            return None
        return tuple(self._tell(dim, "channel" if d == at else "axis") if d else dim for d, dim in enumerate(dims))

    def _spatial(self, dims: Dims, out: Any, makes_channels: bool) -> Dims | None:
        """Convolution and pooling: the axes behind dimension 1 stay, in other numbers."""
        if not isinstance(out, Tensor) or out.ndim != len(dims):
            return None
        kinds = [kinds_of(dim) & CHANNELS for dim in dims]
        if makes_channels:
            if any(kinds[2:]) and dims[1] and not kinds[1]:  # it mixes positions, or takes channels for an axis
                return None
        elif any(kinds):
            return self._resized(dims, out)
        spatial = [self._tell(dim, "axis") for dim in dims[2:]]
        axes = [p.axis for dim in spatial for p in dim]
        if any(len(dim) > 1 or any(p.inner for p in dim) for dim in spatial) or axes != sorted(axes):
            spatial = [self._axis(n) for n in out.shape[2:]]
        self._tell(dims[1], "channel")
        channels = (Part("channel", out.shape[1]),) if out.shape[1] > 1 else ()
        return (dims[0], channels, *(self._sized(dim, n) for dim, n in zip(spatial, out.shape[2:])))

    def _sized(self, dim: Dim, size: int) -> Dim:
        """Returns the same dimension of another size."""
        if size_of(dim) == size:
            return dim
        if size == 1:
            return ()
        if len(dim) == 1 and not dim[0].inner:
            return (dim[0]._replace(size=size),)
        kinds, axes = kinds_of(dim), {p.axis[:1] for p in dim}
        if len(axes) == 1 and kinds == {"axis"} and not any(p.inner for p in dim):  # windows of one axis, put together
            return (Part("axis", size, next(iter(axes))),)
        return (Part("channel", size),) if kinds and kinds <= CHANNELS else self._axis(size)

    def _resized(self, dims: Dims, out: Tensor) -> Dims:
        new = [self._axis(n) for n in out.shape[: out.ndim - len(dims)]]
        return (*new, *(self._sized(dim, n) for dim, n in zip(dims, out.shape[len(new) :])))

    # Operations

    def _reordered(self, func: Any, x: Tensor, dims: Dims, args: Any, kwargs: Any, outputs: list[Any]) -> Any:
        """Returns what permutes or drops dimensions is asked by means of a tensor of sizes that tell them apart."""
        sizes = [101 + d if n > 1 else 1 for d, n in enumerate(x.shape)]
        probe = torch.empty(sizes, device="meta", dtype=x.dtype)
        if len(args) > 1 and isinstance(args[1], Tensor):  # max(a, b)
            return NotImplemented
        shown = func(probe, *args[1:], **kwargs)
        shown = shown if isinstance(shown, (tuple, list)) else [shown]
        return [tuple(dims[n - 101] if n > 1 else () for n in t.shape) for t in shown]

    def _indexed(self, dims: Dims, index: Any, out: Tensor) -> Dims | None:
        index = index if isinstance(index, tuple) else (index,)
        if any(isinstance(i, (Tensor, list)) and not isinstance(i, bool) for i in index):
            return self._gathered(dims, index, out)
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
                result.append(self._sliced(dim, start, len(range(start, stop, step)), step))
        return tuple(result)

    def _gathered(self, dims: Dims, index: tuple[Any, ...], out: Tensor) -> Dims | None:
        """Returns one list of indices along one dimension: the others stay."""
        if out.ndim != len(dims) or any(i is None or i is Ellipsis for i in index):
            return None
        if any(not isinstance(i, slice) or i != slice(None) for i in index[:-1]):
            return None
        at = len(index) - 1
        is_channel = kinds_of(dims[at]) <= CHANNELS
        moved = self._sized(dims[at], out.shape[at]) if is_channel else self._axis(out.shape[at])
        return (*dims[:at], moved, *dims[at + 1 :])

    def _sliced(self, dim: Dim, start: int, length: int, step: int) -> Dim:
        if length == size_of(dim) and step == 1:
            return dim
        if len(dim) != 1 or not dim[0].inner or step != 1 or length <= 1:
            return self._sized(dim, length)
        part = dim[0]
        end = part.before + size_of(part.inner)
        if start + length <= part.before or start >= end:
            return (Part("extra", length),)
        if start > part.before or start + length < end:
            return self._axis(length)
        before = part.before - start
        if length == end - part.before:
            return part.inner
        return (part._replace(size=length, before=before),)

    def _pieces(self, dims: Dims, x: Tensor, outputs: list[Tensor]) -> list[Dims | None]:
        changed = [d for d in range(x.ndim) if any(t.shape[d] != x.shape[d] for t in outputs)]
        if len(changed) != 1:
            return [dims if len(outputs) == 1 else None] * len(outputs)
        at, start, result = changed[0], 0, list[Dims | None]()
        for t in outputs:
            result.append((*dims[:at], self._sliced(dims[at], start, t.shape[at], 1), *dims[at + 1 :]))
            start += t.shape[at]
        return result

    def _joined(self, known: list[Dims | None], tensors: list[Tensor], at: int, out: Tensor) -> Dims | None:
        labelled = [dims for dims in known if dims is not None and len(dims) == out.ndim]
        others = [(*dims[:at], (), *dims[at + 1 :]) for dims in labelled]
        shape = [*out.shape]
        shape[at] = 1
        result = self._merged(others, shape)
        if result is None:
            return None
        placed = [(i, dims[at]) for i, dims in enumerate(known) if dims is not None and kinds_of(dims[at]) - {"extra"}]
        kinds = {p.kind for _, dim in placed for p in dim}
        is_open = kinds == {"unknown"} and not {p.kind for dim in result for p in dim} & CHANNELS
        if is_open and len({dim for _, dim in placed}) == 1 and len(placed[0][1]) == 1:
            joined: Dim = (placed[0][1][0]._replace(size=out.shape[at]),)
        elif kinds & CHANNELS and not kinds - CHANNELS - {"unknown"}:
            joined = (Part("channel", out.shape[at]),)
        elif len(placed) == 1 and not kinds & {"batch", "state"}:
            i, dim = placed[0]
            before = sum(t.shape[at] for t in tensors[:i])
            if len(dim) == 1 and dim[0].inner:
                before, dim = before + dim[0].before, dim[0].inner
            joined = (Part("axis", out.shape[at], dim[0].axis, self._tell(dim, "axis"), before),)
        elif kinds & CHANNELS or "batch" in kinds:
            return None
        else:
            joined = (Part("state", out.shape[at]),) if "state" in kinds else self._axis(out.shape[at])
        return (*result[:at], joined, *result[at + 1 :])

    def _stacked(self, known: list[Dims | None], at: int, out: Tensor) -> Dims | None:
        labelled = [dims for dims in known if dims is not None]
        result = self._merged(labelled, [*out.shape[:at], *out.shape[at + 1 :]])
        return None if result is None else (*result[:at], self._axis(out.shape[at]), *result[at:])

    def _broadcast(self, known: list[Dims | None], out: Tensor) -> Dims | None:
        labelled = [dims for dims in known if dims is not None]
        sizes = [tuple(map(size_of, dims)) for dims in labelled]
        return self._merged(labelled, out.shape) if all(_broadcasts(s, out.shape) for s in sizes) else None

    def _merged(self, labelled: list[Dims], shape: Sequence[int]) -> Dims | None:
        """Tensors of (but for broadcasting) one shape, taken together; None where they contradict each other."""
        if not labelled:
            return None
        result = list[Dim]()
        for d, size in enumerate(shape, start=-len(shape)):
            if size == 1:
                result.append(())
                continue
            candidates = [dims[d] for dims in labelled if len(dims) >= -d and size_of(dims[d]) == size]
            telling = [dim for dim in candidates if kinds_of(dim) != {"unknown"}] or candidates
            roles = {bool(kinds_of(dim) & CHANNELS) for dim in telling}
            if len(roles) > 1:
                return None
            if roles and telling[0] is not candidates[0]:
                for dim in candidates:
                    self._tell(dim, "channel" if roles == {True} else "axis")
            result.append(telling[0] if telling else self._axis(size))
        return tuple(result)

    def _product(self, a: Dims | None, b: Dims | None, is_linear: bool, out: Tensor) -> Dims | None:
        """Returns `a @ b` (`linear`: b is a weight). A weight makes channels of the dimension that it sums over."""
        if a is not None and (b is None or is_linear):
            return self._weighted(a, len(a) - 1, out.shape[-1])
        if a is None and b is not None and len(b) >= 2:
            return self._weighted(b, len(b) - 2, out.shape[len(b) - 2])
        if a is None or b is None or len(a) < 2 or len(b) < 2:
            return None
        return (*a[:-1], b[-1]) if len(a) >= len(b) else (*b[:-2], a[-2], b[-1])

    def _weighted(self, dims: Dims, at: int, size: int) -> Dims | None:
        summed, kinds = dims[at], kinds_of(dims[at])
        others = {p.kind for d, dim in enumerate(dims) if d != at for p in dim}
        new: Dim
        if kinds & CHANNELS or not others & CHANNELS:
            certain = "channel" in kinds or len(summed) > 1 or any(len(p.axis) > 1 for p in summed)
            if "channel" in others and kinds & CHANNELS:
                return None
            kind = "channel" if certain else "feature"
            self._tell(summed, kind)
            new = (Part(kind, size),) if size > 1 else ()
        elif "channel" in others:  # it mixes positions
            new = self._sized(self._tell(summed, "axis"), size)
        else:  # two linear layers, along two dimensions: which of them makes channels?
            return None
        return (*dims[:at], new, *dims[at + 1 :])

    def _einsum(self, args: Any, out: Tensor) -> Dims | None:
        equation, operands = args[0], args[1] if isinstance(args[1], (list, tuple)) else args[1:]
        left, right = equation.replace(" ", "").split("->")
        found: dict[str, Dim] = {}
        lost: set[str] = set()
        for letters, t in zip(left.split(","), operands):
            dims = self._known.get(t)
            if dims is not None and len(letters) == len(dims):
                for letter, dim in zip(letters, dims):
                    found.setdefault(letter, dim)
                    lost |= {letter} if letter not in right else set()
        kinds = {p.kind for letter in right if letter in found for p in found[letter]}
        result = []
        for letter, size in zip(right, out.shape):
            if letter in found:
                result.append(found[letter])
            elif lost and not kinds & CHANNELS:
                result.append((Part("channel", size),) if size > 1 else ())
            else:
                result.append(self._axis(size))
        return tuple(result)

    def _recurrent(self, x: Tensor, dims: Dims, args: Any, kwargs: Any, outputs: list[Tensor]) -> list[Dims | None]:
        out, states = outputs[0], outputs[1:]
        if x.ndim == 2 and out.ndim == 2 and isinstance(args[1], Tensor) and not args[1].is_floating_point():  # packed
            return [(dims[0], (Part("channel", out.shape[1]),)), *[None] * len(states)]
        if len(dims) != 3 or out.ndim != 3:  # one sequence without a batch
            return [None] * len(outputs)
        batch_first = bool(args[-1])
        time, examples = (1, 0) if batch_first else (0, 1)
        self._tell(dims[time], "axis")
        self._tell(dims[2], "channel")
        steps, channels = self._axis(out.shape[time]), (Part("channel", out.shape[2]),) if out.shape[2] > 1 else ()
        main = (dims[examples], steps, channels) if batch_first else (steps, dims[examples], channels)
        of_states: list[Dims | None] = [
            ((Part("state", t.shape[0]),) if t.shape[0] > 1 else (), dims[examples], (Part("channel", t.shape[2]),))
            for t in states
        ]
        return [main, *of_states]

    def _padded(self, args: Any, out: Tensor) -> Dims | None:
        batch_first = bool(args[2])
        examples: Dim = (Part("batch", self._batch),) if self._batch > 1 else ()
        steps = self._axis(out.shape[1 if batch_first else 0])
        channels: Dim = (Part("channel", out.shape[2]),)
        return (examples, steps, channels) if batch_first else (steps, examples, channels)

    def _unfolded(self, dims: Dims, x: Tensor, args: Any, kwargs: Any, out: Tensor) -> Dims | None:
        if out.ndim == x.ndim + 1:  # Tensor.unfold: windows along one dimension
            at = next((d for d in range(x.ndim) if out.shape[d] != x.shape[d]), None)
            if at is None or len(dims[at]) != 1:
                return None
            part = dims[at][0]
            outer, inner = (
                part._replace(size=n, axis=(*part.axis, i)) for i, n in enumerate((out.shape[at], out.shape[-1]))
            )
            return (*dims[:at], (outer,), *dims[at + 1 :], (inner,))
        names = ("kernel_size", "dilation", "padding", "stride")
        options = dict(zip(names, (None, 1, 0, 1))) | dict(zip(names, args[1:])) | kwargs
        kernel, dilation, padding, stride = ([o, o] if isinstance(o, int) else o for o in map(options.get, names))
        self._tell(dims[1], "channel")
        spatial = [
            self._sized(self._tell(dim, "axis"), (n + 2 * p - d * (k - 1) - 1) // s + 1)
            for dim, n, k, d, p, s in zip(dims[2:], x.shape[2:], kernel, dilation, padding, stride)
        ]
        return (dims[0], (Part("channel", out.shape[1]),), tuple(p for dim in spatial for p in dim))


def _reshaped(dims: Dims, shape: Sequence[int]) -> Dims | None:
    """Returns the same parts, in the same order, in dimensions of other sizes; None where that cuts through a part."""
    rest = [part for dim in dims for part in dim]
    result = list[Dim]()
    for size in shape:
        taken = list[Part]()
        while (missing := size // math.prod(p.size for p in taken)) > 1:
            if not rest:
                return None
            part = rest.pop(0)
            if missing % part.size == 0:
                taken.append(part)
            elif part.size % missing == 0 and not part.inner:
                sizes = (missing, part.size // missing)
                outer, inner = (
                    part._replace(size=n, axis=(*part.axis, i) if part.axis else ()) for i, n in enumerate(sizes)
                )
                taken.append(outer)
                rest.insert(0, inner)
            else:
                return None
        result.append(tuple(taken))
    return tuple(result) if not rest else None


def _broadcasts(size: Sequence[int], shape: Sequence[int]) -> bool:
    return len(size) <= len(shape) and all(n in (1, m) for n, m in zip(reversed(size), reversed(shape)))


def kinds_of(dim: Dim) -> set[str]:
    """Returns the kinds of a dimension's parts."""
    return {part.kind for part in dim}


def size_of(dim: Dim) -> int:
    """Returns a dimension's number of entries."""
    return math.prod(part.size for part in dim)


def _dim(args: Any, kwargs: Any, ndim: int) -> int:
    given = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
    return int(given) % ndim


def _name(func: Any) -> str:
    name = getattr(func, "__name__", "")
    if name == "__get__":  # a property, such as Tensor.T
        return str(getattr(func.__self__, "__name__", ""))
    return str(name)
