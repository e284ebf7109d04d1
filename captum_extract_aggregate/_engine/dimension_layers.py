"""The rules of layers and products, which tell where the channels are."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from captum_extract_aggregate._engine.dimension_call import Call, Found, channels, rule, rule_of_first
from captum_extract_aggregate._engine.labels import Labels
from captum_extract_aggregate._engine.parts import CHANNELS, FRESH, Dim, Dims, Part, kinds_of, size_of

# Layers, which tell where the channels are


@rule_of_first("conv(_transpose)?[123]d")
def _convolution(call: Call, dims: Dims) -> Found:
    weight, out = call.args[1] if len(call.args) > 1 else call.kwargs["weight"], call.out
    if out.ndim == len(dims) and set(weight.shape[2:]) == {1} and out.shape[2:] == call.x.shape[2:]:
        return [_pointwise(call.labels, dims, out.shape[1])]
    return [_spatial(call.labels, dims, t, makes_channels=True) for t in call.outputs]


def _pointwise(labels: Labels, dims: Dims, made: int) -> Dims | None:
    """Returns the dimensions after a convolution that looks at one position at a time, be they as they may."""
    if any(kinds_of(dim) & CHANNELS for dim in dims[2:]) and dims[1] and not kinds_of(dims[1]) & CHANNELS:
        return None  # it mixes positions
    labels.tell(dims[1], "channel")
    return (dims[0], channels(made), *labels.tell_axes(dims[2:]))


@rule_of_first(".*pool[123]d.*")
def _pooling(call: Call, dims: Dims) -> Found:
    return [_spatial(call.labels, dims, t, makes_channels=False) for t in call.outputs]


def _spatial(labels: Labels, dims: Dims, out: Any, makes_channels: bool) -> Dims | None:
    """Returns the dimensions after convolution or pooling: the axes behind dimension 1 stay, in other numbers."""
    if not isinstance(out, Tensor) or out.ndim != len(dims):
        return None
    kinds = [kinds_of(dim) & CHANNELS for dim in dims]
    if makes_channels:
        if any(kinds[2:]) and dims[1] and not kinds[1]:  # it mixes positions, or takes channels for an axis
            return None
    elif any(kinds):
        return labels.resized(dims, out.shape)
    spatial = labels.tell_axes(dims[2:])
    axes = [p.axis for dim in spatial for p in dim]
    if any(len(dim) > 1 or any(p.inner for p in dim) for dim in spatial) or axes != sorted(axes):
        spatial = [labels.axis(n) for n in out.shape[2:]]
    labels.tell(dims[1], "channel")
    sized = [labels.sized(dim, n) for dim, n in zip(spatial, out.shape[2:])]
    return (dims[0], channels(out.shape[1]), *sized)


@rule_of_first("batch_norm|instance_norm|group_norm")
def _normalisation(call: Call, dims: Dims) -> Found:
    return [call.labels.made_channels(dims, 1)]


@rule_of_first("layer_norm|rms_norm")
def _layer_normalisation(call: Call, dims: Dims) -> Found:
    over = call.args[1] if len(call.args) > 1 else call.kwargs["normalized_shape"]
    return [call.labels.made_channels(dims, len(dims) - 1) if len(over) == 1 else dims]


@rule_of_first("multi_head_attention_forward|_native_multi_head_attention")
def _attention_layer(call: Call, dims: Dims) -> Found:
    return call.and_unknown(call.labels.made_channels(dims, len(dims) - 1))


@rule_of_first("embedding")
def _embedding(call: Call, dims: Dims) -> Found:
    table = call.args[0] if call.args[0].is_floating_point() else call.args[1]
    return [(*call.labels.tell_axes(dims), (Part("channel", table.shape[-1]),))]


@rule_of_first("(lstm|gru|rnn_tanh|rnn_relu)_cell")
def _recurrent_cell(call: Call, dims: Dims) -> Found:
    return [(*dims[:-1], (Part("channel", t.shape[-1]),)) for t in call.outputs]


@rule_of_first("lstm|gru|rnn_tanh|rnn_relu")
def _recurrent(call: Call, dims: Dims) -> Found:
    args, out, states, labels = call.args, call.out, call.outputs[1:], call.labels
    if call.x.ndim == 2 and out.ndim == 2 and isinstance(args[1], Tensor) and not args[1].is_floating_point():  # packed
        return call.and_unknown((dims[0], (Part("channel", out.shape[1]),)))
    if len(dims) != 3 or out.ndim != 3:  # one sequence without a batch
        return [None] * len(call.outputs)
    batch_first = bool(args[-1])
    time, examples = (1, 0) if batch_first else (0, 1)
    labels.tell(dims[time], "axis")
    labels.tell(dims[2], "channel")
    steps, made = labels.axis(out.shape[time]), channels(out.shape[2])
    main = (dims[examples], steps, made) if batch_first else (steps, dims[examples], made)
    of_states: Found = [
        ((Part("state", t.shape[0]),) if t.shape[0] > 1 else (), dims[examples], (Part("channel", t.shape[2]),))
        for t in states
    ]
    return [main, *of_states]


@rule_of_first("_pack_padded_sequence")
def _packed_sequence(call: Call, dims: Dims) -> Found:
    out = call.out
    return call.and_unknown((call.labels.axis(out.shape[0]), (Part("channel", out.shape[1]),)))


@rule_of_first("unfold")
def _unfolding(call: Call, dims: Dims) -> Found:
    return [_windows(call, dims) if call.out.ndim == call.x.ndim + 1 else _patches(call, dims)]


def _windows(call: Call, dims: Dims) -> Dims | None:
    """Returns the dimensions of the windows that `Tensor.unfold` takes along one dimension."""
    x, out = call.x, call.out
    at = next((d for d in range(x.ndim) if out.shape[d] != x.shape[d]), None)
    if at is None or len(dims[at]) != 1:
        return None
    part = dims[at][0]
    outer, inner = (part._replace(size=n, axis=(*part.axis, i)) for i, n in enumerate((out.shape[at], out.shape[-1])))
    return (*dims[:at], (outer,), *dims[at + 1 :], (inner,))


def _patches(call: Call, dims: Dims) -> Dims:
    """Returns the dimensions of the patches that `torch.nn.functional.unfold` takes, of all axes at once."""
    labels = call.labels
    names = ("kernel_size", "dilation", "padding", "stride")
    options = dict(zip(names, (None, 1, 0, 1))) | dict(zip(names, call.args[1:])) | call.kwargs
    kernel, dilation, padding, stride = ([o, o] if isinstance(o, int) else o for o in map(options.get, names))
    labels.tell(dims[1], "channel")
    spatial = [
        labels.sized(labels.tell(dim, "axis"), (n + 2 * p - d * (k - 1) - 1) // s + 1)
        for dim, n, k, d, p, s in zip(dims[2:], call.x.shape[2:], kernel, dilation, padding, stride)
    ]
    return (dims[0], (Part("channel", call.out.shape[1]),), tuple(p for dim in spatial for p in dim))


@rule("scaled_dot_product_attention")
def _attention(call: Call) -> Found:
    q, k, v = call.known[:3]
    return [None if q is None or v is None else (*_answers(q, v if k is None else k), v[-1])]


@rule("_pad_packed_sequence")
def _padded_sequence(call: Call) -> Found:
    batch_first, out, labels = bool(call.args[2]), call.out, call.labels
    examples: Dim = (Part("batch", labels.batch),) if labels.batch > 1 else ()
    steps = labels.axis(out.shape[1 if batch_first else 0])
    made: Dim = (Part("channel", out.shape[2]),)
    return call.and_unknown((examples, steps, made) if batch_first else (steps, examples, made))


@rule("matmul|bmm|mm|__matmul__")
def _matmul(call: Call) -> Found:
    a, b = call.known[:2]
    return [_product(call, a, b)]


@rule("__rmatmul__")
def _reversed_matmul(call: Call) -> Found:
    b, a = call.known[:2]
    return [_product(call, a, b)]


@rule("addmm|baddbmm")
def _matmul_added(call: Call) -> Found:
    a, b = call.known[1:3]
    return [_product(call, a, b)]


@rule("linear")
def _linear(call: Call) -> Found:
    return [_product(call, call.known[0], None, is_linear=True)]  # the weight may be given by keyword


def _product(call: Call, a: Dims | None, b: Dims | None, is_linear: bool = False) -> Dims | None:
    """Returns the dimensions of `a @ b`, where b is a weight if `is_linear`: a weight makes channels of the dimension
    that it sums over."""
    if a is not None and (b is None or is_linear):
        return _weighted(call.labels, a, len(a) - 1, call.out.shape[-1])
    if a is None and b is not None and len(b) >= 2:
        return _weighted(call.labels, b, len(b) - 2, call.out.shape[len(b) - 2])
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return None
    if len(a) == len(b):
        return (*_answers(a, (*b[:-2], b[-1], b[-2])), b[-1])
    return (*a[:-1], b[-1]) if len(a) >= len(b) else (*b[:-2], a[-2], b[-1])


def _answers(q: Dims, k: Dims) -> Dims:
    """Returns the dimensions of what queries find at keys, but for the channels: those of the queries.

    Queries of the whole picture, of which each window is given a copy, find what belongs to the window's own cells.
    """
    if len(q) != len(k) or any(size_of(of_q) != size_of(of_k) for of_q, of_k in zip(q[:-1], k[:-1])):
        return q[:-1]
    copies = {part.axis for dim in q[:-2] for part in dim if part.kind == "axis" and part.axis[0] >= FRESH}
    windows = {part.axis[0] for dim in k[:-2] for part in dim if part.kind == "axis" and part.axis[0] < FRESH}
    asked = {part.axis[0] for part in q[-2] if part.kind == "axis"}
    return k[:-1] if copies and windows and windows <= asked else q[:-1]


def _weighted(labels: Labels, dims: Dims, at: int, size: int) -> Dims | None:
    summed, kinds = dims[at], kinds_of(dims[at])
    others = {p.kind for d, dim in enumerate(dims) if d != at for p in dim}
    new: Dim
    if kinds & CHANNELS or not others & CHANNELS:
        certain = "channel" in kinds or len(summed) > 1 or any(len(p.axis) > 1 for p in summed)
        if "channel" in others and kinds & CHANNELS:
            return None
        kind = "channel" if certain else "feature"
        labels.tell(summed, kind)
        new = (Part(kind, size),) if size > 1 else ()
    elif "channel" in others:  # it mixes positions
        new = labels.sized(labels.tell(summed, "axis"), size)
    else:  # two linear layers, along two dimensions: which of them makes channels?
        return None
    return (*dims[:at], new, *dims[at + 1 :])


@rule("einsum")
def _einsum(call: Call) -> Found:
    args = call.args
    equation, operands = args[0], args[1] if isinstance(args[1], (list, tuple)) else args[1:]
    left, right = equation.replace(" ", "").split("->")
    known = dict(zip(map(id, call.tensors), call.known))
    found: dict[str, Dim] = {}
    lost: set[str] = set()
    for letters, t in zip(left.split(","), operands):
        dims = known.get(id(t))
        if dims is not None and len(letters) == len(dims):
            for letter, dim in zip(letters, dims):
                found.setdefault(letter, dim)
                lost |= {letter} if letter not in right else set()
    kinds = {p.kind for letter in right if letter in found for p in found[letter]}
    makes_channels = bool(lost) and not kinds & CHANNELS

    def of(letter: str, size: int) -> Dim:
        if letter in found:
            return found[letter]
        return channels(size) if makes_channels else call.labels.axis(size)

    return [tuple(of(letter, size) for letter, size in zip(right, call.out.shape))]
