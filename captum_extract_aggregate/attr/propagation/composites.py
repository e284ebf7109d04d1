"""Composites: the rules of a whole network, by the kinds of its layers, under the names that zennit gives them.

`LRP(model, rules=EpsilonPlus())` is `LRP(model, rules={nn.Linear: Epsilon(1e-6), nn.Conv2d: AlphaBeta(1, 0, 1e-6,
bias=True), ...})`. Sums and averages are shared out by value. A BatchNorm behind a convolution is part of it, as with
zennit's canonizers; `rules={**EpsilonPlus().rules(model), nn.BatchNorm2d: "identity"}` passes it, as without them.

Sources: Kohlbrenner et al., Towards Best Practice in Explaining Neural Network Decisions with LRP (IJCNN 2020); Anders
et al., Software for Dataset-wide XAI: From Local Explanations to Global Insights with Zennit, ... (2021).
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
    """Gives rules by kinds of layers, and perhaps another for the first of them; subclasses define `convolution`.

    Args:
        epsilon: LRP-epsilon's, at linear layers.
        stabilizer: the epsilon of the other rules, which only keeps denominators away from 0.

    Raises:
        TypeError: in `LRP`, for a rule of the first layer where the model is no module that has one.

    Example:
        One of your own: LRP-gamma for convolutions, LRP-epsilon for linear layers.

        >>> from dataclasses import dataclass
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.rules import Composite, Gamma
        >>> @dataclass(frozen=True)
        ... class EpsilonGamma(Composite):
        ...     def convolution(self):
        ...         return Gamma(0.5, self.stabilizer)
        >>> cea.LRP(cea.load_scene_model("vgg"), rules=EpsilonGamma(epsilon=0.1))
        LRP(model, rules=EpsilonGamma(epsilon=0.1, stabilizer=1e-06))
    """

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
    r"""Gives the z+ rule to convolutions, :math:`R_j = \sum_k \frac{(z_{jk})_+}{(b_k)_+ + \sum_i (z_{ik})_+} R_k`, and
    LRP-epsilon to linear layers.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.rules import EpsilonPlus
        >>> model = cea.load_scene_model("vgg")
        >>> image, _ = cea.DigitScenes(n=1)[0]
        >>> cea.LRP(model, rules=EpsilonPlus()).attribute(image[None], target=7).shape
        torch.Size([1, 3, 96, 96])
    """

    def convolution(self) -> LinearRule:
        return AlphaBeta(1, 0, self.stabilizer, bias=True)


@dataclass(frozen=True)
class EpsilonPlusFlat(EpsilonPlus):
    """Gives the rules of `EpsilonPlus`, but equal shares to all that a unit of the first layer sees.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.rules import EpsilonPlusFlat
        >>> model = cea.load_scene_model("vgg")
        >>> image, _ = cea.DigitScenes(n=1)[0]
        >>> cea.LRP(model, rules=EpsilonPlusFlat()).attribute(image[None], target=7).shape
        torch.Size([1, 3, 96, 96])
    """

    def first(self) -> LinearRule | None:
        return Flat()


@dataclass(frozen=True)
class EpsilonAlpha2Beta1(Composite):
    r"""Gives LRP-:math:`\alpha_2\beta_1` to convolutions, :math:`R_j = \sum_k \Big(2 \frac{(z_{jk})_+}{(b_k)_+ + \sum_i
    (z_{ik})_+} - \frac{(z_{jk})_-}{(b_k)_- + \sum_i (z_{ik})_-}\Big) R_k`, and LRP-epsilon to linear layers.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.rules import EpsilonAlpha2Beta1
        >>> model = cea.load_scene_model("vgg")
        >>> image, _ = cea.DigitScenes(n=1)[0]
        >>> cea.LRP(model, rules=EpsilonAlpha2Beta1()).attribute(image[None], target=7).shape
        torch.Size([1, 3, 96, 96])
    """

    def convolution(self) -> LinearRule:
        return AlphaBeta(2, 1, self.stabilizer, bias=True)


@dataclass(frozen=True)
class EpsilonAlpha2Beta1Flat(EpsilonAlpha2Beta1):
    """Gives the rules of `EpsilonAlpha2Beta1`, but equal shares to all that a unit of the first layer sees.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.rules import EpsilonAlpha2Beta1Flat
        >>> model = cea.load_scene_model("vgg")
        >>> image, _ = cea.DigitScenes(n=1)[0]
        >>> cea.LRP(model, rules=EpsilonAlpha2Beta1Flat()).attribute(image[None], target=7).shape
        torch.Size([1, 3, 96, 96])
    """

    def first(self) -> LinearRule | None:
        return Flat()


@dataclass(frozen=True)
class EpsilonGammaBox(Composite):
    """Gives LRP-gamma to convolutions, LRP-epsilon to linear layers, and `ZBox(low, high)` to the first layer.

    Args:
        low, high: the smallest and the largest value of a pixel, numbers or tensors that broadcast: see `ZBox`.
        gamma: see `Gamma`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.rules import EpsilonGammaBox
        >>> model = cea.load_scene_model("vgg")
        >>> image, _ = cea.DigitScenes(n=1)[0]
        >>> cea.LRP(model, rules=EpsilonGammaBox(low=-3, high=3)).attribute(image[None], target=7).shape
        torch.Size([1, 3, 96, 96])
    """

    low: float | Tensor = -3.0
    high: float | Tensor = 3.0
    gamma: float = 0.25

    def convolution(self) -> LinearRule:
        return Gamma(self.gamma, self.stabilizer)

    def first(self) -> LinearRule | None:
        return ZBox(self.low, self.high, self.stabilizer)
