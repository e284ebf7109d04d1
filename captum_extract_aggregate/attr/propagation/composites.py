"""Composites: the rules of a whole network, by the kinds of its layers, under the names that zennit gives them.

`LRP(model, rules=EpsilonPlus())` is `LRP(model, rules={nn.Linear: Epsilon(1e-6), nn.Conv2d: AlphaBeta(1, 0, 1e-6,
bias=True), ...})`. Sums and averages are shared out by value. A BatchNorm behind a convolution is part of it, as with
zennit's canonizers; `rules={**EpsilonPlus().rules(model), nn.BatchNorm2d: "identity"}` passes it, as without them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError
from captum_extract_aggregate._engine.layers import model_of
from captum_extract_aggregate.attr.propagation.lrp_rules import AlphaBeta, Epsilon, Flat, Gamma, LinearRule, ZBox

_CONVOLUTIONS: tuple[type[nn.Module], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


@dataclass(frozen=True)
class Composite:
    """Rules by kinds of layers, and perhaps another for the first of them; subclasses define `convolution`."""

    epsilon: float = 1e-6
    stabilizer: float = 1e-6

    def rules(self, model: Callable[..., Any]) -> dict[Any, LinearRule]:
        """Returns the mapping that `LRP(rules=)` takes, for this network."""
        rules: dict[Any, LinearRule] = dict.fromkeys(_CONVOLUTIONS, self.convolution())
        rules[nn.Linear] = self.linear()
        first = self.first()
        return rules if first is None else {**rules, self._first_layer(model): first}

    def convolution(self) -> LinearRule:
        """Returns the rule of convolutions."""
        raise NotImplementedError

    def linear(self) -> LinearRule:
        """Returns the rule of linear layers."""
        return Epsilon(self.epsilon)

    def first(self) -> LinearRule | None:
        """Returns the rule of the first layer, if it has one of its own."""
        return None

    def _first_layer(self, model: Callable[..., Any]) -> str:
        network = model_of(model)
        for name, module in () if network is None else network.named_modules():
            if name and isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
                return name
        raise InvalidTypeError(
            f"rules is {self!r}, which has a rule for the first layer, but model is a {type(model).__name__} in which "
            "none is found; expected an nn.Module with convolutions or linear layers, or a mapping that names it"
        )


@dataclass(frozen=True)
class EpsilonPlus(Composite):
    """The z+ rule for convolutions, biases included, and LRP-epsilon for linear layers."""

    def convolution(self) -> LinearRule:
        return AlphaBeta(1, 0, self.stabilizer, bias=True)


@dataclass(frozen=True)
class EpsilonPlusFlat(EpsilonPlus):
    """`EpsilonPlus`, but for the first layer: in equal shares."""

    def first(self) -> LinearRule | None:
        return Flat()


@dataclass(frozen=True)
class EpsilonAlpha2Beta1(Composite):
    """LRP-alpha2-beta1 for convolutions, biases included, and LRP-epsilon for linear layers."""

    def convolution(self) -> LinearRule:
        return AlphaBeta(2, 1, self.stabilizer, bias=True)


@dataclass(frozen=True)
class EpsilonAlpha2Beta1Flat(EpsilonAlpha2Beta1):
    """`EpsilonAlpha2Beta1`, but for the first layer: in equal shares."""

    def first(self) -> LinearRule | None:
        return Flat()


@dataclass(frozen=True)
class EpsilonGammaBox(Composite):
    """LRP-gamma for convolutions, LRP-epsilon for linear layers, and for the first layer `ZBox(low, high)`."""

    low: float | Tensor = -3.0
    high: float | Tensor = 3.0
    gamma: float = 0.25

    def convolution(self) -> LinearRule:
        return Gamma(self.gamma, self.stabilizer)

    def first(self) -> LinearRule | None:
        return ZBox(self.low, self.high, self.stabilizer)
