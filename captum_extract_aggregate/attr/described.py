"""What `help(NormGrad.attribute)` shows: each class's Args and Returns, filled from one template."""

from __future__ import annotations

import functools
import inspect
import textwrap
import types
from collections.abc import Callable
from typing import Any, TypeVar

from captum_extract_aggregate.attr.base import own_as

Class = TypeVar("Class", bound=type)

_ARGUMENTS = {
    "inputs": "a tensor, or a tuple of tensors, batch first: `N x ...`.",
    "target": "the output to explain, as Captum takes it: an int, a tuple of ints, a list of either (one per example), "
    "or an integer tensor of one entry or N; None if `forward_func` gives one score per example. Explain a logit, not "
    "a probability: a softmax makes each score depend on all classes.",
    "additional_forward_args": "handed to `forward_func` after the inputs.",
    "attribute_to_layer_input": "take the map at the layer's input instead of its output.",
    "interpolate_mode": 'how the layer\'s map is brought to the input\'s size: `"nearest"`, `"bilinear"` and the '
    "others of `torch.nn.functional.interpolate`.",
    "relu_attributions": "False leaves negative values, as Captum's `LayerGradCam` does by default.",
    "attr_dim_summation": "False returns each channel's term, `N x K x *S`, instead of their sum.",
    "grad_kwargs": "taken as Captum takes it; what would change the map (`create_graph`: see `attribute_with_graph`) "
    "is an error.",
    "return_convergence_delta": "return the pair of maps and `compute_convergence_delta`, which costs one more pass.",
    "verbose": "False; `print(method)` shows which rules are applied.",
    "kwargs": "handed to the wrapped method's `attribute`.",
}

_TEMPLATE = """{first}

Args:
{arguments}

Returns:
{returns}

Raises:
    InvalidTypeError, InvalidValueError: a TypeError and a ValueError that name the argument, what was got and what
        was expected.
"""
_FORM = (
    "Detached, on the model's device, in the inputs' floating point dtype (reductions of half precision run in float32)"
)
_LISTS = (
    "For a list of layers it is a list of maps, in its order; for a layer that emits several tensors, a tuple. S are "
    "the layer's positions, `H x W` for pictures"
)


def described(
    returns: str,
    first: str = "Explains one target per example, from one forward and one backward.",
    layers: bool = True,
) -> Callable[[Class], Class]:
    """Gives a class an `attribute` whose documentation says what this class returns: shape, sign and unit.

    Args:
        returns: the shape, the sign and the unit of the map.
        first: the first line.
        layers: whether a list of layers gives a list of maps.
    """

    def describe(cls: Class) -> Class:
        owner: Any = cls
        entry = _copied(owner.attribute, f"{cls.__qualname__}.attribute")
        text = f"{returns}. {_FORM}. {_LISTS}." if layers else f"{returns}. {_FORM}."
        arguments = [_entry(f"{name}: {_ARGUMENTS[name]}") for name in _names(entry)]
        entry.__doc__ = _TEMPLATE.format(first=first, arguments="\n".join(arguments), returns=_wrapped(text, "    "))
        owner.attribute = entry
        return cls

    return describe


def _names(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def _copied(function: Any, name: str) -> Any:
    parts = (function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    made = functools.update_wrapper(types.FunctionType(*parts), function)
    made.__dict__.update(function.__dict__)  # `__wrapped__` is what Captum's tools call
    made.__qualname__ = name
    return own_as(made, function)


def _entry(text: str) -> str:
    return _wrapped(text, "    ", "        ")


def _wrapped(text: str, first: str, then: str = "    ") -> str:
    return textwrap.fill(text, 116, initial_indent=first, subsequent_indent=then, break_on_hyphens=False)
