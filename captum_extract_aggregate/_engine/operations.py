"""What PyTorch's functions are to a propagation rule: a convolution, a rectifier, a sum, a mere reshape...

A function may be called as `torch.relu(x)`, `x.relu()`, `F.relu(x)`, `x.relu_()` or by a module: all of them are found
here. `register_operation` adds functions of which nothing is known.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import resolve_name

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate._common.registry import Table

Rule = Callable[..., Any]

_KINDS = {
    # A weight applied to an input.
    "linear": """
        conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution linear matmul mm bmm inner
        __matmul__ __rmatmul__
    """,
    # Zero below zero, the identity above (up to a ceiling), perhaps with a slope below.
    "rectifier": "relu relu6 leaky_relu prelu rrelu hardtanh threshold clamp clamp_min clip",
    # Smooth relatives of the ReLU: no gate is defined for them; relevance passes through.
    "activation": "gelu silu mish hardswish elu selu celu",
    # Odd functions that saturate, and rounding: relevance passes through.
    "squash": """
        tanh erf softsign fake_quantize_per_tensor_affine fake_quantize_per_channel_affine
        fused_moving_avg_obs_fake_quant
    """,
    "sum": "add sub subtract rsub __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__",
    "scale": """
        mul multiply div divide true_divide neg negative __mul__ __rmul__ __imul__ __truediv__ __itruediv__ __neg__
    """,
    # Sums with fixed weights that are not negative.
    "average": """
        avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d mean sum
        interpolate upsample upsample_bilinear upsample_nearest upsample_nearest1d upsample_nearest2d upsample_nearest3d
        upsample_linear1d upsample_bilinear2d upsample_trilinear3d fold
    """,
    "normalization": """
        batch_norm layer_norm group_norm instance_norm rms_norm local_response_norm
        _native_batch_norm_legit_no_training native_layer_norm native_group_norm
    """,
    "dropout": "dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout",
    # The larger or smaller of two tensors, or over a dimension: the winner takes all.
    "maximum": "max min maximum minimum fmax fmin",
    # No rule is defined for these; their gradient is what it is.
    "unruled": "softplus logsigmoid",
    # Rectifiers work within, where no rule reaches them.
    "hiding": "rnn_relu rnn_relu_cell",
    # The largest of several entries of one tensor takes all.
    "winner": """
        max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
        adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d adaptive_max_pool1d_with_indices
        adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices amax
    """,
    # A mask says which of two tensors, or of a tensor and a number.
    "choice": "where masked_fill",
    # Each output is one input, or none: the gradient is the routing.
    "routing": """
        max_unpool1d max_unpool2d max_unpool3d cat concat concatenate stack hstack vstack dstack chunk split
        tensor_split split_with_sizes unbind narrow select index_select gather take_along_dim __getitem__ __setitem__
        masked_select view view_as reshape reshape_as flatten unflatten squeeze unsqueeze permute transpose swapaxes
        swapdims movedim moveaxis t adjoint diagonal unfold expand expand_as broadcast_to repeat tile repeat_interleave
        roll flip fliplr flipud rot90 contiguous clone alias copy_ pad constant_pad_nd slice_scatter select_scatter
        pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle to type type_as float double half bfloat16
        cpu cuda as_strided atleast_1d atleast_2d atleast_3d __iter__
    """,
    # Differentiable, and no rectifier: gradients pass as they are, but nothing says how relevance would.
    "smooth": """
        softmax log_softmax softmin sigmoid hardsigmoid exp expm1 log log1p log2 log10 sqrt rsqrt
        square pow __pow__ __rpow__ __ipow__ float_power reciprocal __rtruediv__ __rdiv__ einsum addmm baddbmm addbmm
        tensordot bilinear scaled_dot_product_attention multi_head_attention_forward normalize norm vector_norm
        cosine_similarity var std var_mean std_mean logsumexp cumsum cumprod prod embedding embedding_bag addcmul
        addcdiv lerp abs absolute angle view_as_real view_as_complex complex polar conj resolve_conj stft istft fft ifft
        rfft irfft hfft ihfft fft2 ifft2 rfft2 irfft2 fftn ifftn rfftn irfftn fftshift ifftshift lstm gru rnn_tanh
        lstm_cell gru_cell rnn_tanh_cell _pack_padded_sequence _pad_packed_sequence hardshrink softshrink tanhshrink
        cross_entropy nll_loss binary_cross_entropy binary_cross_entropy_with_logits mse_loss
    """,
}
_OPERATORS = ("slice", "alias", "_unsafe_view", "_to_copy")  # of ATen alone: mere copies and views
_PROPERTIES = ("T", "mT", "H", "mH", "real", "imag")  # of tensors: mere transpositions


_OWNERS: tuple[Any, ...] = (torch, F, Tensor, torch._C._nn)


def _functions(name: str) -> Iterator[Any]:
    """Yields everything that is called `name`: in torch, torch.nn.functional and as a method, in place or not."""
    for owner in (*_OWNERS, torch.special, torch.linalg, torch.fft):
        for variant in (name, name + "_"):
            function = getattr(owner, variant, None)
            if callable(function):
                yield function


class _Operations(Table[Any, "str | Rule"]):
    """Holds the kind of each function, or a user's own rule for it."""

    def described(self, name: Any) -> str:
        """Returns what errors call a function."""
        return Call(name, (), {}, None).full_name


OPERATIONS = _Operations("function", "unregister_operation")


# What a user may declare a function to be; more would need to know its arguments.
DECLARED = {"relu": "rectifier", "identity": "identity", "gradient": "routing"}


@functools.lru_cache(maxsize=1024)
def of_torch(function: Any) -> Any:
    """Returns what an ATen operator is called in torch, with the same arguments: exported programs consist of
    operators."""
    packet = getattr(function, "overloadpacket", function)
    if not isinstance(packet, torch._ops.OpOverloadPacket) or not str(packet).startswith("aten."):
        return function
    name = packet.__name__
    owners = (torch, torch._C._nn, Tensor)
    return next((getattr(owner, name) for owner in owners if hasattr(owner, name)), packet)


def register_operation(function: Callable[..., Any], how: str | Rule, overwrite: bool = False) -> None:
    """Tells the propagation rules how a quantity passes a function they do not know.

    It holds for the whole process, until `unregister_operation(function)`.

    Args:
        function: as it is called in the model: `torch.sin`, `torch.nn.functional.glu`, `torch.Tensor.sin`...
        how: `"relu"`: as the ReLU (each method's rule for it); `"identity"`: unchanged, to the first tensor;
            `"gradient"`: by the function's own gradient; or a callable `how(quantity, output, *inputs)` that returns
            what each of `inputs` (the function's differentiated tensors, in order) receives: a tensor or a tuple.
        overwrite: whether it may replace the rule of a function that has one, built in or registered.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected; for a function that has a rule
            already, unless `overwrite=True`.

    Example:
        The gate of a squeeze-and-excitation block takes no relevance; the signal takes all (Arras et al. 2019):

        >>> import torch
        >>> import captum_extract_aggregate as cea
        >>> def signal_takes_all(relevance, output, *factors):
        ...     gate = min(range(len(factors)), key=lambda i: factors[i].numel())
        ...     return tuple(torch.zeros_like(f) if i == gate else relevance for i, f in enumerate(factors))
        >>> def no_relevance(relevance, output, gate):
        ...     return torch.zeros_like(gate)
        >>> cea.register_operation(torch.Tensor.mul, signal_takes_all, overwrite=True)
        >>> cea.register_operation(torch.sigmoid, no_relevance, overwrite=True)
        >>> cea.unregister_operation(torch.Tensor.mul)
        >>> cea.unregister_operation(torch.sigmoid)
    """
    if not callable(function):
        raise InvalidTypeError(f"function is a {type(function).__name__}; expected a function of PyTorch, as torch.sin")
    if not callable(how) and (not isinstance(how, str) or how not in DECLARED):
        raise InvalidValueError(unknown_name("how", how, DECLARED, ", or a callable how(quantity, output, *inputs)"))
    known = OPERATIONS.get(function)
    if known is not None and not overwrite:
        raise InvalidValueError(
            f"function is {OPERATIONS.described(function)}, which has a rule already ({_kind(known)}); expected one "
            "that has none, or overwrite=True to replace it everywhere (unregister_operation brings back what is "
            "built in)"
        )
    OPERATIONS.register(function, DECLARED[how] if isinstance(how, str) else how, overwrite)


def unregister_operation(function: Callable[..., Any]) -> None:
    """Goes back to what this package knows of a function by itself.

    Raises:
        ValueError: for a function of which nothing is known.
    """
    OPERATIONS.unregister(function)


def list_operations() -> dict[str, str]:
    """Returns the kind of each function that propagation rules know, by the function's name (`"custom"`: a rule of your
    own).

    Example:
        >>> from captum_extract_aggregate.registry import list_operations
        >>> list_operations()["torch.relu"]
        'rectifier'
    """
    return {OPERATIONS.described(function): _kind(OPERATIONS[function]) for function in OPERATIONS}


def _kind(how: str | Rule) -> str:
    return how if isinstance(how, str) else "custom"


@dataclass(frozen=True)
class _Hole:
    index: int


@functools.lru_cache(maxsize=1024)
def _name(function: Any) -> str:
    return str(getattr(function, "__name__", "")).strip("_").removeprefix("linalg_")


@functools.lru_cache(maxsize=1024)
def _full_name(function: Any) -> str:
    return str(resolve_name(function) or getattr(function, "__name__", repr(function)))


@functools.lru_cache(maxsize=1024)
def _in_place(function: Any) -> bool:
    name = str(getattr(function, "__name__", ""))
    dunder = name.startswith("__i") and hasattr(Tensor, f"__{name[3:]}")  # of `+=` there is a `+`; not `__invert__`
    return dunder or (name.endswith("_") and not name.endswith("__"))


class Call(NamedTuple):
    """Holds a function as it was called, its kind (None: nothing is known of it), and a user's own rule, if any."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    kind: str | None
    rule: Rule | None = None

    @property
    def full_name(self) -> str:
        """Returns what errors call it."""
        return _full_name(self.function)

    @property
    def name(self) -> str:
        """Returns its name without module, in-place mark and double underscores."""
        return _name(self.function)

    @property
    def in_place(self) -> bool:
        """Tells whether it overwrites its first argument."""
        return _in_place(self.function) or bool(self.kwargs.get("inplace"))

    def run(self) -> Any:
        return self.function(*self.args, **self.kwargs)

    def as_function_of(self, *tensors: Tensor) -> Callable[..., Any]:
        """Returns the call as a function of these of its arguments; it holds the others, but not them."""

        def hole(value: Any) -> Any:
            return next((_Hole(i) for i, t in enumerate(tensors) if value is t), value)

        def filled(value: Any, values: tuple[Any, ...]) -> Any:
            return values[value.index] if isinstance(value, _Hole) else value

        function, args = self.function, [hole(a) for a in self.args]
        kwargs = {name: hole(value) for name, value in self.kwargs.items()}

        def call(*values: Any) -> Any:
            named = {name: filled(value, values) for name, value in kwargs.items()}
            return function(*(filled(a, values) for a in args), **named)

        return call

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)


_ATOMS = {int, float, bool, str, type(None), torch.dtype, torch.device}


def tensors_in(value: Any) -> list[Tensor]:
    """Returns all tensors in nested tuples, lists and dictionaries."""
    if type(value) is Tensor:
        return [value]
    found: list[Tensor] = []
    _collect((value,), found)
    return found


def _collect(values: Iterable[Any], found: list[Tensor]) -> None:
    for value in values:
        if type(value) in _ATOMS:  # looked at first, as every call of a network comes here several times
            continue
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            _collect(value, found)
        elif isinstance(value, dict):
            _collect(value.values(), found)


def _register_own() -> None:
    for kind, names in _KINDS.items():
        for name in names.split():
            for function in _functions(name):
                OPERATIONS.register(function, kind, overwrite=True)  # of two kinds of one name the later one holds
    for name in _PROPERTIES:
        OPERATIONS.register(getattr(Tensor, name).__get__, "routing", overwrite=True)
    for name in _OPERATORS:
        OPERATIONS.register(getattr(torch.ops.aten, name), "routing", overwrite=True)
    OPERATIONS.seal()


_register_own()
