"""Gives the operations of an unmodified network other backward passes, while it runs.

`Interception` is a `TorchFunctionMode`: within it, every call of a PyTorch function goes through it first, whether by a
module, a functional, an operator or an in-place method. Where a rule differs from the gradient, the call becomes a node
of the autograd graph (`_Ruled`) with the same output and the rule as its backward. Nothing of the model is touched.

What cannot be seen (scripted code, a custom `autograd.Function`, a replica in another thread) leaves nodes in the graph
that did not come from here: `check` finds them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._common.tensors import plain
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.autograd_graph import nodes_below
from captum_extract_aggregate._engine.layers import describe, running_modules
from captum_extract_aggregate._engine.model_state import function_modes, leave_function_modes, run_within
from captum_extract_aggregate._engine.operations import OPERATIONS, Call, Rule, of_torch, tensors_in
from captum_extract_aggregate.attr.propagation.linear_shares import broadcasts

Tensors = tuple[Tensor, ...]
# Views whose history an in-place operation on their base has rewritten, indexing by None, which the oldest PyTorch
# shows to nobody, and what a user's backward hooks leave.
_HARMLESS = (
    "CopySlices",
    "AsStridedBackward0",
    "ViewBackward0",
    "SliceBackward0",
    "SelectBackward0",
    "UnsqueezeBackward0",
    "AliasBackward0",
    "BackwardHookFunctionBackward",
)

# What asks a tensor for something and gives no tensor: hooks and modules do at every call.
_INERT = {
    Tensor.register_hook,
    *(getattr(Tensor, name) for name in ("dim", "size", "numel", "stride", "is_floating_point", "is_contiguous")),
    *(getattr(Tensor, name).__get__ for name in ("requires_grad", "shape", "ndim", "dtype", "device", "is_leaf")),
}


class Step:
    """One call of a function, and how R passes it. `inputs` are the tensors that receive something."""

    def __init__(self, call: Call, inputs: Tensors) -> None:
        self.call, self.inputs = call, inputs
        self.name, self.full_name = call.name, call.full_name
        self.shapes = [t.shape for t in inputs]

    def apply(self) -> Tensor:
        """Runs the call, and makes this step its output's node in the graph."""
        # What is overwritten has to be the first input of the node, also if it is a constant.
        first = next(iter(self.call.args), self.inputs[0]) if self.call.in_place else self.inputs[0]
        self.extra = 0 if any(first is t for t in self.inputs) else 1
        output: Tensor = _Ruled.apply(self, *[first] * self.extra, *self.inputs)  # type: ignore[no-untyped-call]
        del self.call, self.inputs  # the graph keeps what `before` and `after` chose, and no more
        return output

    def run(self) -> Any:
        """Returns what the call gives."""
        return self.call.run()

    def before(self) -> Tensors:
        """Returns what the rule needs of the inputs as they are before the call, which may work in place."""
        return ()

    def after(self, output: Tensor) -> Tensors:
        """Returns what it needs of the inputs and the output after the call."""
        return ()

    def down(self, R: Tensor, kept: Tensors) -> Tensors:
        """Returns what each input receives of R at the output; `kept` is what `before` and `after` gave."""
        raise NotImplementedError


class _Ruled(torch.autograd.Function):
    """The node of a step: its call forward, its rule backward."""

    @staticmethod
    def forward(ctx: Any, step: Step, *inputs: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        kept = step.before()
        versions = [t._version for t in inputs]
        output: Tensor = step.run()
        if any(output is t and t._version != version for t, version in zip(inputs, versions)):
            ctx.mark_dirty(output)
        ctx.step = step
        ctx.save_for_backward(*kept, *step.after(output))
        return output if any(output is t for t in inputs) else _no_view_of_its_kind(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        nothing = None, *[None] * ctx.step.extra
        if gradients[0] is None:  # behind a gate or a constant
            return *nothing, *[None] * len(ctx.step.shapes)
        return *nothing, *ctx.step.down(plain(gradients[0]), tuple(map(plain, ctx.saved_tensors)))


def _no_view_of_its_kind(t: Tensor) -> Tensor:
    """Returns a tensor of the same subclass that is no view.

    A subclass makes what a function returns its own by a view, which nothing behind it could overwrite.
    """
    if plain(t) is t or not t._is_view():
        return t
    own = Tensor._make_subclass(type(t), plain(t))  # type: ignore[attr-defined]
    own.__dict__.update(t.__dict__)
    return own


class Pass(Step):
    """R passes unchanged (summed over what was broadcast)."""

    def after(self, output: Tensor) -> Tensors:
        check_output(self, output)
        return ()

    def down(self, R: Tensor, kept: Tensors) -> Tensors:
        return (R.sum_to_size(self.shapes[0]),)


def check_output(step: Step, output: Any) -> None:
    """Raises our error for a function that was registered as what it is not."""
    shape = step.shapes[0]
    if not isinstance(output, Tensor) or not broadcasts(shape, output.shape):
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InvalidValueError(
            f"{step.full_name} returns {got} for a tensor of shape {tuple(shape)}, so that nothing can pass it "
            "position by position; expected a function that keeps the shape, or a rule of one's own for it"
        )


class Custom(Step):
    """A rule that a user registered."""

    def __init__(self, call: Call, inputs: Tensors) -> None:
        super().__init__(call, inputs)
        assert call.rule is not None
        self.rule = call.rule

    def after(self, output: Tensor) -> Tensors:
        if not isinstance(output, Tensor) or any(output is t for t in self.inputs):
            raise InvalidValueError(
                f"{self.full_name} has a rule of one's own, but works in place or returns {type(output).__name__}; "
                "expected a function that returns one new tensor"
            )
        return (output, *self.inputs)

    def down(self, R: Tensor, kept: Tensors) -> Tensors:
        received = self.rule(R, *kept)
        received = tuple(received) if isinstance(received, (tuple, list)) else (received,)
        got = [tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__ for t in received]
        expected = [tuple(t.shape) for t in kept[1:]]
        if got != expected:
            raise InvalidValueError(
                f"the rule registered for {self.full_name} returned {got}; expected one tensor per input, of shapes "
                f"{expected}"
            )
        return received


class Interception(TorchFunctionMode):
    """The rules of one method at work. Subclasses say which step a call becomes (`step`).

    It holds for the thread that began it; modules that run in others are not its own.
    """

    leaves = False  # whether tensors where the graph begins count as variables, and not as parameters

    def __init__(self, method: str, watch: nn.Module | None = None) -> None:
        super().__init__()
        self.method = method
        self.watch = watch
        self.watched: list[Tensor] = []  # the outputs of `watch`
        self._seen: set[Node] = set()
        self._thread = 0
        self._outside = 0  # how many modules were running before

    def begin(self, undo: Undo) -> None:
        """Holds from here on, until all is undone (without `__exit__`, which an interrupt can cut short)."""
        self._thread = threading.get_ident()
        self._outside = len(list(running_modules()))
        if self.watch is not None:
            undo.hook(self.watch, "register_forward_hook", self._watch, prepend=True)
        undo.callback(leave_function_modes, function_modes())
        self.__enter__()

    def _watch(self, module: nn.Module, args: Any, output: Any) -> None:
        if module is self.watch and threading.get_ident() == self._thread:  # replicas have its hooks
            self.watched += tensors_in(output)

    def running_modules(self) -> list[nn.Module]:
        """Returns the modules that are running within, innermost first."""
        modules = list(running_modules())
        return modules[: len(modules) - self._outside]

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _INERT:
            return func(*args, **(kwargs or {}))
        known = OPERATIONS.get(func)
        if known is None:
            func = of_torch(func)
            known = OPERATIONS.get(func)
        how = self.find_rule(func, known)
        opened = self.opened(func, how)
        if opened is not None:
            return run_within(self, opened, *args, **(kwargs or {}))
        kind, rule = ("custom", how) if callable(how) else (how, None)
        call = Call(func, args, kwargs or {}, kind, rule)
        given = [t for t in tensors_in((args, call.kwargs)) if t.requires_grad] if torch.is_grad_enabled() else []
        if not given:
            return call.run()
        variables = tuple(t for t in given if self.leaves or t.grad_fn is not None)
        below = {t.grad_fn for t in given if t.grad_fn is not None}
        if call.kind is None:
            output = self._run_unknown(call)
        else:
            step = self._step(call, variables)
            output = call.run() if step is None else step.apply()
            self.made(call, variables, output, step)
        self._note(call.args[:1] if output is None else output, below)
        return output

    def find_rule(self, function: Any, known: str | Rule | None) -> str | Rule | None:
        """Returns the kind of a function, or a user's own rule for it; `known` is what the whole process knows of
        it."""
        return known

    def opened(self, function: Any, how: str | Rule | None) -> Callable[..., Any] | None:
        """Returns the same function of plain operations, where a rule has to see each of them."""
        return None

    def _run_unknown(self, call: Call) -> Any:
        """Runs a function that is not known, if it gives nothing differentiable, or an argument as it was."""
        before = [(t, t._version) for t in tensors_in((call.args, call.kwargs))]
        output = call.run()
        unchanged = [t for t, version in before if t._version == version]
        new = [t for t in tensors_in(output) if t.requires_grad and not any(t is u for u in unchanged)]
        if new or len(unchanged) < len(before):
            raise self.unknown(call)
        return output

    def _step(self, call: Call, variables: Tensors) -> Step | None:
        if not variables:
            return None
        if call.kind == "custom":
            return Custom(call, variables)
        if call.kind == "identity":
            return Pass(call, variables[:1])
        return self.step(call, variables)

    def step(self, call: Call, variables: Tensors) -> Step | None:
        """Returns the step that a call of a known kind becomes; None where R passes as the gradient does."""
        raise NotImplementedError

    def made(self, call: Call, variables: Tensors, output: Any, step: Step | None) -> None:
        """Called after each call of a known kind."""

    def unknown(self, call: Call, why: str = "") -> ValueError:
        modules = self.running_modules()
        where = f", called in {describe(modules[0], modules[-1:])}" if modules else ""
        return InvalidValueError(
            f"{self.method} has no rule for {call.full_name}{why}{where}; expected convolutions, linear layers, "
            "rectifiers, sums, pooling, normalisation and reshapes, or a rule for it: captum_extract_aggregate."
            f"register_operation({call.full_name}, how{', overwrite=True' if call.kind else ''}), where how is 'relu', "
            "'identity', 'gradient' or a function"
        )

    def _note(self, output: Any, below: set[Node]) -> None:
        """Remembers the nodes of the graph between a call's output and its inputs."""
        waiting = [t.grad_fn for t in tensors_in(output)]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in below and node not in self._seen:
                self._seen.add(node)
                waiting += [lower for lower, _ in node.next_functions]

    def check(self, output: Any) -> None:
        """Raises our error if something that led to the output could not be seen."""
        for node in nodes_below(t.grad_fn for t in tensors_in(output)):
            name = node.name()
            if node not in self._seen and not name.endswith("AccumulateGrad") and name not in _HARMLESS:
                raise InvalidValueError(
                    f"{self.method} met {name}, whose call it could not see: scripted code, a custom "
                    "autograd.Function, a checkpoint, a DataParallel replica or weights computed outside of the model "
                    "hide operations, and none can be registered for them; expected a plain Python module on one device"
                )
        self._seen.clear()


def check_maximum(interception: Interception, call: Call, variables: Tensors) -> None:
    """Raises our error for the larger of a tensor and a constant: a rectifier in disguise, or worse."""
    second = call.argument(1, "other")
    if isinstance(second, Tensor) and len(variables) < 2:
        raise interception.unknown(call, " of a tensor and a constant")


_LOW = -1e4  # of a filling: no rectifier ends so low, but masked logits do


def check_choice(interception: Interception, call: Call) -> None:
    """Raises our error for a mask that may be a rectifier in disguise; one with very low numbers rules entries out."""
    given = [value for value in (*call.args, *call.kwargs.values()) if not is_mask(value)]
    fillings = [value for value in given if not (isinstance(value, Tensor) and value.requires_grad)]
    if len(fillings) == len(given) - 1 and all(map(is_low, fillings)):
        return
    raise interception.unknown(call, f" with a mask that puts more than {_LOW:g}, which may be a rectifier in disguise")


def is_low(value: Any) -> bool:
    """Tells whether a number, or all of a tensor, is as low as masked logits are."""
    return bool((torch.as_tensor(value) <= _LOW).all())


def is_mask(value: Any) -> bool:
    """Tells whether it is a tensor of booleans."""
    return isinstance(value, Tensor) and value.dtype == torch.bool


def normalization_arguments(call: Call) -> dict[str, Any]:
    """Arguments by name: torch and torch.nn.functional order them differently."""
    statistics, affine = ["running_mean", "running_var"], ["weight", "bias"]
    switch = "training" if call.name == "batch_norm" else "use_input_stats"
    native = call.function in (torch.batch_norm, torch.instance_norm)
    names = ["input", *(affine + statistics if native else statistics + affine), switch, "momentum", "eps"]
    defaults = {**dict.fromkeys(names), switch: call.name == "instance_norm", "eps": 1e-5}
    return {**defaults, **dict(zip(names, call.args)), **call.kwargs}


def uses_batch_statistics(call: Call) -> bool:
    """Tells whether a BatchNorm mixes the examples of a batch."""
    return call.name == "batch_norm" and bool(normalization_arguments(call)["training"])
