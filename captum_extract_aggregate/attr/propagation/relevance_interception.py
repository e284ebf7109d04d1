"""The operations of layer-wise relevance propagation and excitation backprop.

Two families differ in all that is not linear. With a rule that shares out the bias (LRP with finite gamma), a
BatchNorm behind a convolution is part of it, other normalisations are linear but for the statistic that they divide
by, and sums are shared out by LRP-gamma too. With the z+ rule (excitation backprop, gamma = infinity) R passes
normalisations unchanged, and sums are shared out in proportion to their signed addends, `a_i / sum a`, or to their
positive parts.

Constants among the addends or the inputs of an operation, such as padding, are what a bias is: in the first family
they take their share, which is lost, and in the second they play no part.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._engine.autograd_graph import nodes_below
from captum_extract_aggregate._engine.operations import Call, Rule, tensors_in
from captum_extract_aggregate.attr.propagation.gates import ACTIVATED, BOUNDED, GATE, STATISTIC, Gates
from captum_extract_aggregate.attr.propagation.interception import (
    Interception,
    Pass,
    Step,
    Tensors,
    check_choice,
    check_maximum,
    uses_batch_statistics,
)
from captum_extract_aggregate.attr.propagation.keyed_rules import KeyedRules, innermost
from captum_extract_aggregate.attr.propagation.lrp_rules import LinearRule
from captum_extract_aggregate.attr.propagation.normalization import batch_norm_constants, batch_norm_gain, linear_part
from captum_extract_aggregate.attr.propagation.opened import OPENED
from captum_extract_aggregate.attr.propagation.own_operations import OwnOperations
from captum_extract_aggregate.attr.propagation.padding import Varying
from captum_extract_aggregate.attr.propagation.product_steps import (
    FactorsStep,
    HeldStep,
    NormStep,
    ProductStep,
    RefusedStep,
    SoftmaxStep,
)
from captum_extract_aggregate.attr.propagation.relevance_steps import (
    PRODUCTS,
    AffineStep,
    Average,
    AverageStep,
    BatchNormStep,
    LinearStep,
    SharesStep,
    WinnerStep,
    matrix_product,
    weighted,
)
from captum_extract_aggregate.attr.propagation.shares import (
    gamma_average,
    gamma_shares,
    part_average,
    part_shares,
    parts_of_sums,
    rule_average,
    rule_shares,
)
from captum_extract_aggregate.attr.propagation.signs import Signs

_UNRULED = " (a gate, a softmax or attention; explain a logit, not a probability)"
# Functions that return several tensors, or hide what they do.
_SEVERAL = ("lstm", "gru", "rnn_tanh", "lstm_cell", "gru_cell", "rnn_tanh_cell", "var_mean", "std_mean")

# The method of `RelevanceInterception` that makes the step of a call of each kind, or of single functions.
_STEPS = {
    "routing": "_route",
    "choice": "_route",
    "linear": "_linear",
    "sum": "_sum",
    "average": "_average",
    "normalization": "_normalization",
    "maximum": "_maximum",
    "winner": "_winner",
    "dropout": "_dropout",
    "scale": "_scale",
    "rectifier": "_unchanged",
    "activation": "_unchanged",
    "squash": "_unchanged",
    "smooth": "_smooth",
    "unruled": "_smooth",
}
_SMOOTH = {
    **dict.fromkeys(("sigmoid", "hardsigmoid", "normalize"), "_unchanged"),
    **dict.fromkeys(("softmax", "softmin"), "_softmax"),
    "einsum": "_einsum",
}


class RelevanceInterception(Interception):
    """Every operation passes relevance. `rule` holds for the linear ones that no named rule claims.

    `sums` and `lost` are of sums and averages in the z+ family (`rules.parts_of_sums`).
    """

    def __init__(
        self,
        method: str,
        rule: LinearRule,
        linear_rules: KeyedRules[LinearRule] | None = None,
        watch: nn.Module | None = None,
        sums: str = "signed",
        lost: str = "drop",
        operations: OwnOperations | None = None,
        attention: str | None = None,
        stabilizer: float = 0.0,
    ) -> None:
        super().__init__(method, watch)
        self.rule = rule
        self.operations, self.linear_rules = operations, linear_rules
        self.parts = parts_of_sums(sums, lost)
        # Of the shares in sums and averages where biases take theirs too.
        self.gamma, self.stabilizer = float(getattr(rule, "gamma", 0.0)), stabilizer
        self.attention = attention
        self.gates = Gates(held=attention == "cp")
        self.varying, self.signs = Varying(), Signs()
        self._made_by: Any = WeakIdKeyDictionary()  # outputs of linear steps, with their version
        self._joined: list[BatchNormStep] = []

    def find_rule(self, function: Any, known: str | Rule | None) -> str | Rule | None:
        if self.operations is None:
            return known
        found: str | Rule | None = self.operations.find(function, known, self.running_modules)
        return found

    def opened(self, function: Any, how: str | Rule | None) -> Callable[..., Any] | None:
        return OPENED.get(function) if how in (None, "smooth") else None  # no rule of a user's

    def step(self, call: Call, variables: Tensors) -> Step | None:
        name = _STEPS.get(call.kind or "")
        if name is None:
            raise self.unknown(call, _UNRULED)
        made: Step | None = getattr(self, name)(call, variables)
        return made

    def _route(self, call: Call, variables: Tensors) -> None:
        """Makes no step: R passes as the gradient does."""
        if call.kind == "choice":
            check_choice(self, call)

    def _maximum(self, call: Call, variables: Tensors) -> Step | None:
        check_maximum(self, call, variables)
        return self._winner(call, variables)

    def _dropout(self, call: Call, variables: Tensors) -> Step | None:
        if not call.argument(2, "training", call.kwargs.get("train", True)):
            return None  # it returns its very input
        return self._unchanged(call, variables)

    def _scale(self, call: Call, variables: Tensors) -> Step:
        if len(variables) == 2:
            return self._factors(call, variables)
        self._check_scale(call, variables)
        return self._unchanged(call, variables)

    def _factors(self, call: Call, variables: Tensors) -> Step:
        """Makes the step of a product of two tensors: the signal takes all, or, in LRP, both take half."""
        signal = self.gates.signal(variables, least=ACTIVATED if self.attention == "cp" else BOUNDED)
        if all(self.gates.degree(t) >= STATISTIC for t in variables):
            return RefusedStep(call, variables, self.unknown(call, " of statistics"))
        if "div" in call.name:
            return self._quotient(call, variables)
        if signal is None and self.attention is None:
            raise self.unknown(call, f" of {len(variables)} tensors that depend on the input (neither is a gate)")
        return FactorsStep(call, variables, signal)

    def _quotient(self, call: Call, variables: Tensors) -> Step:
        """Makes the step of a quotient: the numerator takes all, as what is divided by is held like a statistic."""
        above, below = (self.gates.degree(t) for t in variables)
        if above >= GATE > below:
            raise self.unknown(call, " of a gate by a signal")
        if below < GATE and self.attention is None:
            raise self.unknown(call, " of two tensors that depend on the input (neither is a gate)")
        return FactorsStep(call, variables, 0)

    def _smooth(self, call: Call, variables: Tensors) -> Step:
        """Makes the step of a function that may serve in a gate, where no relevance arrives."""
        name = _SMOOTH.get(call.name)
        if name is not None:
            step: Step = getattr(self, name)(call, variables)
            return step
        error = self.unknown(call, _UNRULED)
        if call.name in _SEVERAL:
            raise error
        return RefusedStep(call, variables, error)

    def _softmax(self, call: Call, variables: Tensors) -> Step:
        if self.attention is None:
            return RefusedStep(call, variables, self.unknown(call, _UNRULED))
        if self.attention == "cp":
            return HeldStep(call, variables)
        if call.name == "softmin":
            raise self.unknown(call, " (write it as a softmax)")
        return SoftmaxStep(call, variables, call.argument(1, "dim"))

    def _einsum(self, call: Call, variables: Tensors) -> Step:
        if len(variables) == 2 and len(call.args) == 3:
            return self._product(call, variables)
        if len(variables) != 1 or len(call.args) != 3:
            raise self.unknown(call, f" of {len(call.args) - 1} tensors")
        return LinearStep(call, variables, matrix_product(call, variables[0]), self._rule(call))

    def _product(self, call: Call, variables: Tensors) -> Step:
        if self.attention is None:
            raise self.unknown(call, " of two tensors that depend on the input (attention)")
        signal = self.gates.signal(variables, least=ACTIVATED) if self.attention == "cp" else None
        return ProductStep(call, variables, signal, self.stabilizer)

    def _unchanged(self, call: Call, variables: Tensors) -> Step:
        if len(variables) > 1:  # rectifiers, activations, dropout, scaling by a constant
            raise self.unknown(call, f" of {len(variables)} tensors that depend on the input (a gate)")
        step, _ = self._made_by.get(variables[0], (None, None)) if call.in_place else (None, None)
        if step is not None and step.own is not None:
            step.own.keep()
        return Pass(call, variables)

    def _check_scale(self, call: Call, variables: Tensors) -> None:
        divides = "div" in call.name
        if divides and (call.argument(0, "input") is not variables[0] or call.kwargs.get("rounding_mode")):
            raise self.unknown(call, " of a constant by what depends on the input, or with rounding")

    def made(self, call: Call, variables: Tensors, output: Any, step: Step | None) -> None:
        if isinstance(step, LinearStep):
            self._made_by[output] = (step, output._version)
        elif call.name == "clone" and variables and variables[0] in self._made_by:  # what a tap hands on
            self._made_by[output] = (self._made_by[variables[0]][0], output._version)
        if variables:
            self.varying.note(call, variables, output)
            self.gates.note(call, variables, output)
            self.signs.note(call, output)

    def check(self, output: Any) -> None:
        super().check(output)
        if any(self.gates.degree(t) >= GATE for t in tensors_in(output)):
            raise InvalidValueError(
                f"{self.method} was given scores that a sigmoid, tanh, softmax or another gate makes; expected logits: "
                "explain a logit, not a probability (leave the last function out of the model)"
            )
        readers = _readers(output) if self._joined else {}
        for norm in self._joined:
            if readers.get(norm.linear, 0) > 1:
                norm.part()
        for unused, name in self.operations.unused if self.operations is not None else ():
            raise InvalidValueError(
                f"rules holds a rule for a {type(unused).__name__} that no {name or 'non-linear operation'} follows; "
                "expected a layer that calls some (or a function as the key)"
            )
        for unused, name in self.linear_rules.unused if self.linear_rules is not None else ():
            raise InvalidValueError(
                f"rules holds a rule for a {type(unused).__name__} in which no "
                f"{name or 'convolution, linear layer or matrix product'} ran; expected layers that hold some"
            )

    def _linear(self, call: Call, variables: Tensors) -> Step:
        if len(variables) > 1:
            if call.name in PRODUCTS:
                return self._product(call, variables)
            raise self.unknown(call, " whose weights depend on the input")
        if call.name in PRODUCTS:  # of matrices
            linear = matrix_product(call, variables[0])
        elif call.argument(0, "input") is variables[0]:
            linear = weighted(call)
        else:
            raise self.unknown(call, " whose weights depend on the input")
        varying, never_negative = self.varying.of(variables[0]), self.signs.is_never_negative(variables[0])
        return LinearStep(call, variables, linear, self._rule(call), varying, never_negative)

    def _rule(self, call: Call) -> LinearRule:
        """Returns the rule of a weighted operation: one by its function or its layer, else the rule of all."""
        if self.linear_rules is None:
            return self.rule
        own = self.linear_rules.of_function(call.function, self.running_modules)
        own = self.linear_rules.of_layer(self.running_modules) if own is None else own
        return self.rule if own is None else own

    def _rule_without_weights(self, call: Call) -> LinearRule | None:
        """Returns a user's rule for a sum or an average: by its function, or by a layer that is nothing else."""
        if self.linear_rules is None:
            return None
        own = self.linear_rules.of_function(call.function, self.running_modules)
        return self.linear_rules.of_layer(innermost(self.running_modules)) if own is None else own

    def _sum(self, call: Call, variables: Tensors) -> Step:
        own = self._rule_without_weights(call)
        if len(variables) == 1 and not (self.rule if own is None else own).shares_bias:
            return Pass(call, variables)
        if own is not None:
            return SharesStep(call, variables, functools.partial(rule_shares, rule=own), self.varying)
        if self.rule.shares_bias:
            gamma, epsilon = self.gamma, self.stabilizer
            return SharesStep(call, variables, lambda addends, _: gamma_shares(addends, gamma, epsilon), self.varying)
        return SharesStep(call, variables, functools.partial(part_shares, parts=self.parts), self.varying)

    def _winner(self, call: Call, variables: Tensors) -> Step | None:
        masks = [self.varying.of(t) for t in variables]
        if all(mask is None for mask in masks) or _gives_indices(call):
            return None
        return WinnerStep(call, variables, masks)

    def _average(self, call: Call, variables: Tensors) -> Step | None:
        own = self._rule_without_weights(call)
        if call.argument(3, "mode") == "bicubic" and (own is not None or not self.rule.shares_bias):
            raise self.unknown(call, " with mode='bicubic', whose weights are of both signs")
        size = call.argument(1, "output_size")
        if "adaptive" in call.name and _same_size(size, variables[0]):
            return None  # it returns its very input
        average: Average = functools.partial(part_average, parts=self.parts)
        if own is not None:
            average = functools.partial(rule_average, rule=own)
        elif self.rule.shares_bias:
            gamma = 0.0 if call.argument(3, "mode") == "bicubic" else self.gamma  # whose weights are of both signs
            average = functools.partial(gamma_average, gamma=gamma, epsilon=self.stabilizer)
        shares_bias = (self.rule if own is None else own).shares_bias
        return AverageStep(call, variables, average, None if shares_bias else self.varying.of(variables[0]))

    def _normalization(self, call: Call, variables: Tensors) -> Step:
        if len(variables) > 1 or call.argument(0, "input") is not variables[0]:
            raise self.unknown(call, " whose parameters depend on the input")
        if "native" in call.name:
            raise self.unknown(
                call, " (an exported program in the smallest operators; take the module it was made from)"
            )
        if call.name == "batch_norm":
            return self._batch_norm(call, variables)
        linear = linear_part(call) if self.rule.shares_bias else None
        return Pass(call, variables) if linear is None else NormStep(call, variables, linear, self.stabilizer)

    def _batch_norm(self, call: Call, variables: Tensors) -> Step:
        if uses_batch_statistics(call):
            raise self.unknown(call, " with the statistics of the batch (train mode)")
        x = variables[0]
        step, version = self._made_by.get(x, (None, None))
        if step is None or version != x._version:
            return (
                AffineStep(call, variables, batch_norm_gain, self.stabilizer)
                if self.rule.shares_bias
                else Pass(call, variables)
            )
        if step.rule.shares_bias:
            if step.norm is not None or step.name in PRODUCTS or (step.name == "linear" and x.ndim > 2):
                raise self.unknown(call, " behind an operation that it cannot be joined with")
            joined = BatchNormStep(call, variables, batch_norm_constants(call), step, self.stabilizer)
            self._joined.append(joined)
            return joined
        return Pass(call, variables)


def _readers(output: Any) -> dict[Any, int]:
    """Returns how many calls read the output of each step that led to `output`; clones count by their readers."""
    readers: dict[Any, list[Any]] = {}
    nodes: list[Any] = list(nodes_below(t.grad_fn for t in tensors_in(output)))
    for node in nodes:
        for lower, _ in node.next_functions:
            readers.setdefault(lower, []).append(node)
    return {node.step: _count(node, readers) for node in nodes if isinstance(getattr(node, "step", None), LinearStep)}


def _count(node: Any, readers: dict[Any, list[Any]]) -> int:
    """Who reads a node's output, clones of it counted by their readers."""
    found = readers.get(node, [])
    return sum(_count(reader, readers) if reader.name() == "CloneBackward0" else 1 for reader in found)


def _gives_indices(call: Call) -> bool:
    """Tells whether it returns more than the largest entries, or the smallest."""
    second = call.argument(1, "dim", call.kwargs.get("other"))
    over_a_dimension = call.name == "max" and not (second is None or isinstance(second, Tensor))
    return "indices" in call.name or "min" in call.name or bool(call.kwargs.get("return_indices")) or over_a_dimension


def _same_size(size: Any, x: Tensor) -> bool:
    wanted = tuple(size) if isinstance(size, (tuple, list)) else (size,) * (x.ndim - 2)
    return all(n is None or n == m for n, m in zip(wanted, x.shape[2:]))
