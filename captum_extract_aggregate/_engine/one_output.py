"""Models with one output, a logit: its sign is the decision, and the two signs are the classes.

An output f above 0 is the class 1, with the score f; anything else is the class 0, with the score -f. So an f of
exactly 0 belongs to the class 0, as the first of two equal scores does elsewhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from captum.attr import Attribution, GradientAttribution
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.layers import as_written
from captum_extract_aggregate._engine.model_state import set_modes
from captum_extract_aggregate._engine.outputs import find_scores, scores_or_output

# Operations that move or copy numbers, behind which an output's last real operation lies.
_MOVES = frozenset(
    "View UnsafeView ReshapeAlias Squeeze Unsqueeze Select Slice Index Clone Alias ToCopy Permute T Transpose".split()
)


def has_one_output(output: Any, examples: int) -> bool:
    """Tells whether an output is one score per example: `N`, `N x 1`, or a number for a batch of one."""
    if not isinstance(output, Tensor) or output.numel() != examples:
        return False
    return output.ndim == 0 or (len(output) == examples and output.ndim <= 2)


def sign_scores(output: Tensor) -> Tensor:
    """Returns the scores of both signs of one output, `N x 2`: -f and f."""
    f = output.reshape(-1)
    return torch.stack([-f, f], 1)


def is_probability(output: Tensor) -> bool:
    """Tells whether an output that carries its graph comes out of a sigmoid: then no sign of it is a decision."""
    node = output.grad_fn
    while node is not None and node.name().split("Backward")[0] in _MOVES:
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith("SigmoidBackward")


def give_both_signs(model: nn.Module) -> None:
    """Makes a model with one output give, from now on, the scores of both signs."""
    model.register_forward_hook(lambda module, args, output: sign_scores(scores_or_output(output)))


def check_logit(forward_func: Callable[..., Any], inputs: tuple[Tensor, ...], extra: tuple[Any, ...]) -> None:
    """Raises our error for a single output that is a probability."""
    with Undo() as undo, undo:
        set_modes(undo, grad=True)
        given = [t.detach().clone().requires_grad_(t.is_floating_point()) for t in inputs]
        output = scores_or_output(forward_func(*given, *extra))
    if isinstance(output, Tensor) and is_probability(output):
        raise InvalidValueError(no_logit("its sign, the decision, never changes"))


def no_logit(why: str) -> str:
    """Returns the error for a single output that a sigmoid made."""
    return (
        f"forward_func gives one output, which comes out of a sigmoid: {why}; expected the logit: the model without "
        "its sigmoid, or forward_func=lambda x: torch.logit(model(x))"
    )


@contextlib.contextmanager
def signed(explained: Any, forward_func: Callable[..., Any], sign: int) -> Iterator[None]:
    """Within, what is explained is the score of one sign: f (1), or -f (-1).

    Raises TypeError, at the end, where the explanation calls nothing whose sign could be changed.
    """
    calls: list[int] = []

    def of_sign(output: Any) -> Tensor:
        calls.append(1)
        output = find_scores(output)
        return sign * (output.reshape(1) if output.ndim == 0 else output)  # Captum wants a dimension for the batch

    with Undo() as undo, undo:
        change_output(undo, getattr(explained, "__self__", explained), forward_func, of_sign)
        yield
    if not calls:
        raise InvalidTypeError(
            "the model has one output, and the explanation did not call forward_func, so there is none for the other "
            "sign; expected the model itself as forward_func and an explanation of it, or a model of both classes: "
            "lambda x: torch.stack([-f(x), f(x)], 1)"
        )


def give_scores_to_captum(undo: Undo, method: Any) -> None:
    """Until it is undone, Captum's methods, which take tensors alone, get the scores of whatever the model returns.

    Those of gradients cannot do without scores; others may take what the model returns as it is.
    """
    methods = list(with_wrapped(method))
    if any(type(m).__module__.startswith("captum.") for m in methods):
        needs_scores = isinstance(methods[-1], GradientAttribution)
        change_output(undo, method, method.forward_func, find_scores if needs_scores else scores_or_output)


def change_output(undo: Undo, method: Any, forward_func: Callable[..., Any], change: Callable[[Any], Any]) -> None:
    """Until it is undone, a method (and those that it wraps) sees another output of the network."""
    methods = list(with_wrapped(method))
    called = methods[0].forward_func if methods else forward_func
    if isinstance(called, nn.Module):
        undo.hook(as_written(called), "register_forward_hook", lambda module, args, output: change(output))
        return

    def changed(*args: Any, **kwargs: Any) -> Any:
        return change(called(*args, **kwargs))

    for single in methods:
        if single.forward_func is called:
            undo.callback(setattr, single, "forward_func", called)
            single.forward_func = changed


def with_wrapped(method: Any) -> Iterator[Any]:
    """Yields a method, and those that it wraps."""
    while isinstance(method, Attribution):
        yield method
        method = getattr(method, "attribution_method", None) or getattr(method, "method", None)
