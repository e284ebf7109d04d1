"""Layer-wise relevance propagation: a score shared out, down to a layer or the input."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, overload

from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidValueError, unknown_name
from captum_extract_aggregate._engine.layout import Layout
from captum_extract_aggregate._engine.operations import Rule
from captum_extract_aggregate._engine.targets import Target
from captum_extract_aggregate.attr.base import own
from captum_extract_aggregate.attr.described import described
from captum_extract_aggregate.attr.entry import captum_entry, named_arguments
from captum_extract_aggregate.attr.extract_aggregate.aggregate import AggregateName
from captum_extract_aggregate.attr.layer_types import L, Layers, OneLayer
from captum_extract_aggregate.attr.propagation.composites import Composite
from captum_extract_aggregate.attr.propagation.interception import Interception
from captum_extract_aggregate.attr.propagation.keyed_rules import KeyedRules
from captum_extract_aggregate.attr.propagation.lrp_rules import Epsilon, Gamma, LinearRule, Lost, ZPlus, check_number
from captum_extract_aggregate.attr.propagation.own_operations import OwnOperations
from captum_extract_aggregate.attr.propagation.relevance_interception import RelevanceInterception
from captum_extract_aggregate.attr.propagation.relevance_methods import RelevanceAttribution
from captum_extract_aggregate.attr.propagation.rule_keys import check_rule, found_key, not_a_mapping
from captum_extract_aggregate.attr.propagation.shares import Sums, parts_of_sums

Attention = Literal["attnlrp", "cp"]
_SMALL = 1e-9  # what keeps denominators away from 0, and is too small to damp
Rules = Mapping[Any, "LinearRule | str | Rule"]


@described("At the input its shape (a tuple for a tuple), at a layer `N x 1 x *S`; signed, in units of the score")
class LRP(RelevanceAttribution[L]):
    r"""Layer-wise relevance propagation, LRP-:math:`\gamma`, from the explained logit; `gamma=0` is LRP-0.

    With contributions :math:`z_{jk} = a_j w_{jk}`, at every convolution, linear layer and matrix product

    .. math:: R_j = \sum_k \frac{c_{jk}}{c_k + \sum_i c_{ik}} R_k, \quad c_{jk} = z_{jk} + \gamma (z_{jk})_+,
              \quad c_k = b_k + \gamma (b_k)_+

    (for :math:`a \ge 0`, :math:`c_{jk}` is :math:`a_j (w_{jk} + \gamma w_{jk}^+)`). Where the output is negative,
    negative parts stand in place of positive ones, so that no denominator vanishes. The bias takes its share, so that
    the attributions sum to the logit less that: `compute_convergence_delta` reports it. A BatchNorm is joined with the
    convolution in front of it, or else counts as an affine operation (as where that convolution's output is used
    elsewhere too); LayerNorm and GroupNorm are linear but for what they divide by, which is held fixed. R passes ReLUs
    and other activations unchanged, goes to the winner of a maximum, and is shared among the addends of a sum and the
    positions of an average in proportion to their values. LRP-0 then is gradient x input on networks of ReLUs.

    Attention, fused or written out, by `attention`. At a product of matrices :math:`O = A V` half of R goes to each
    factor, at a softmax :math:`s` of :math:`x`

    .. math:: R(A_{ji}) = \sum_p \frac{A_{ji} V_{ip}}{2 O_{jp}} R_{jp}, \quad
              R(V_{ip}) = \sum_j \frac{A_{ji} V_{ip}}{2 O_{jp}} R_{jp}, \quad
              R(x_i) = x_i \Big(R(s_i) - s_i \sum_j R(s_j)\Big)

    (AttnLRP, `"attnlrp"`), or attention weights are held constant and values take all (CP-LRP, `"cp"`), which for a
    small `epsilon` is the balanced gradient x input. In an element-wise product with a gate (a sigmoid, tanh or
    softmax, as of squeeze and excitation; with `"cp"` also the activated branch of a gated product) the signal takes
    all; other products of two signals give half to each, and of a quotient the numerator takes all. The softmax rule
    does not keep the sum: what it and biases take is in `compute_convergence_delta`.

    With `gamma=math.inf` it is the z+ rule, equal to LRP-:math:`\alpha_1\beta_0` and to excitation backprop times the
    logit: biases, padding and normalisations play no part, and `epsilon` is not needed. It sums to the logit, less what
    units without any positive contribution would have had to pass on; `sums` and `lost` are as for
    `ExcitationBackprop`.

    At the input: its shape. At a layer: `N x 1 x *S`, :math:`\sum_k R_{u,k}`. Signed, in units of the score.

    Args:
        model, layer, device_ids, aggregate, layout, call: as for `GuidedBackprop`.
        gamma: from 0 to `math.inf`; values around 0.25 favour positive contributions and calm deep networks.
        epsilon: moves the denominators of convolutions, linear layers and products with a constant matrix away from 0:
            with a large one, LRP-:math:`\epsilon`, they keep part of the relevance for themselves.
        stabilizer: the same for all others: sums, averages, normalisations, and products of two activations. None:
            `epsilon`, but 1e-9 at most, as LRP-:math:`\epsilon` damps weighted layers alone; `stabilizer=epsilon` damps
            all.
        rules: other rules for some layers: a mapping from layer types, dotted names or modules to rules of
            `captum_extract_aggregate.rules` (`Epsilon`, `Gamma`, `AlphaBeta`, `ZPlus`, `Flat`, `WSquare`, `ZBox`,
            `Identity`), or a composite (`EpsilonPlus()`, `EpsilonPlusFlat()`, `EpsilonAlpha2Beta1()`,
            `EpsilonGammaBox(...)`, ...). A rule holds for all convolutions, linear layers and matrix products inside
            the layer; names win over types, inner layers over outer ones. For sums and averages the key is their
            function (`{torch.add: ZPlus()}`, however it is spelled where it is called), a pair of a layer and the
            function (`{("layer1.0", torch.add): ZPlus()}`), or a layer that does nothing else (`{nn.AvgPool2d:
            Flat()}`). For non-linear operations the value is `"relu"`, `"identity"`, `"gradient"` or a callable, as for
            `register_operation` but of this object alone, and the key their function (`{torch.sigmoid: "gradient"}`), a
            pair, or a layer that calls some (`{nn.SiLU: "gradient"}`).
        attention: `"attnlrp"` or `"cp"`.
        sums, lost: with `gamma=math.inf`, as for `ExcitationBackprop`.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected; for scores that a softmax or
            sigmoid makes, and for functions that are not known: see `register_operation`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.rules import ZBox
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> method = cea.LRP(model, gamma=0.25, rules={"conv1": ZBox(low=-3, high=3)})
        >>> method.attribute(image[None], target=7).shape
        torch.Size([1, 3, 96, 96])
        >>> method = cea.LRP(model, "layer3", gamma=float("inf"))
        >>> relevance, delta = method.attribute(image[None], target=7, return_convergence_delta=True)
        >>> logit = model(image[None])[0, 7].detach()
        >>> bool((relevance.sum() - delta - logit).abs() < 1e-4 * logit.abs())
        True

    Source: Montavon et al., Layer-Wise Relevance Propagation: An Overview (2019); Khakzar et al., 2020, section 4;
    Achtibat et al., AttnLRP (ICML 2024); Ali et al., XAI for Transformers (ICML 2022).
    """

    @named_arguments
    def __init__(
        self,
        model: Callable[..., Any],
        layer: L = None,  # type: ignore[assignment]
        device_ids: list[int] | None = None,
        *,
        gamma: float = 0.0,
        epsilon: float = _SMALL,
        stabilizer: float | None = None,
        rules: Rules | Composite | None = None,
        sums: Sums = "signed",
        lost: Lost = "drop",
        attention: Attention = "attnlrp",
        aggregate: AggregateName | None = None,
        layout: Layout = "auto",
        call: int | None = None,
    ) -> None:
        super().__init__(model, layer, device_ids, aggregate=aggregate, layout=layout, call=call)
        check_number("gamma", gamma, may_be_infinite=True)
        check_number("epsilon", epsilon)
        if stabilizer is not None:
            check_number("stabilizer", stabilizer)
        parts_of_sums(sums, lost)
        if (sums, lost) != ("signed", "drop") and not math.isinf(gamma):
            raise InvalidValueError(
                f"sums is {sums!r} and lost {lost!r}, but gamma is {gamma}; expected gamma=math.inf, or 'signed' and "
                "'drop': a finite gamma has its own shares for sums, and loses what the biases take"
            )
        if attention not in get_args(Attention):
            raise InvalidValueError(unknown_name("attention", attention, get_args(Attention)))
        self.attention = attention
        self.gamma, self.epsilon, self.stabilizer, self.sums, self.lost = gamma, epsilon, stabilizer, sums, lost
        self._composite = rules if isinstance(rules, Composite) else None
        if isinstance(rules, Composite):
            rules = rules.rules(model)
        self.rules = dict(rules or {}) if rules is None or isinstance(rules, Mapping) else not_a_mapping(rules)
        for key, rule in self.rules.items():
            check_rule(key, rule)
        self._found_rules()

    @property
    def multiplies_by_inputs(self) -> bool:
        return True

    def argument(self, name: str) -> Any:
        """Returns rules as they were given: nothing, a composite or a mapping."""
        return (self._composite or self.rules or None) if name == "rules" else super().argument(name)

    @overload  # type: ignore[override]
    def attribute(  # type: ignore[overload-overlap]
        self: LRP[None],
        inputs: tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: Literal[False] = False,
        attribute_to_layer_input: bool = False,
        verbose: Literal[False] = False,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, ...]: ...

    @overload
    def attribute(  # type: ignore[overload-overlap]
        self: LRP[OneLayer],
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: Literal[False] = False,
        attribute_to_layer_input: bool = False,
        verbose: Literal[False] = False,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> Tensor: ...

    @overload
    def attribute(  # type: ignore[overload-overlap]
        self: LRP[Layers],
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: Literal[False] = False,
        attribute_to_layer_input: bool = False,
        verbose: Literal[False] = False,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> list[Tensor]: ...

    @overload
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        verbose: Literal[False] = False,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> Any: ...

    @own
    @captum_entry
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        verbose: Literal[False] = False,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Returns the relevance; with `return_convergence_delta` the pair of it and `compute_convergence_delta`."""
        if verbose is not False:
            raise InvalidValueError(
                f"verbose is {verbose!r}; expected False: print(method) shows which rules it applies"
            )
        to_input, deltas = attribute_to_layer_input, return_convergence_delta
        return super().attribute(inputs, target, additional_forward_args, to_input, grad_kwargs, deltas)

    def _seed(self, scores: Tensor) -> Tensor:
        return scores

    def _found_rules(self) -> dict[Any, LinearRule | str | Rule]:
        """Returns the rules by function, module or type; names are looked up in the model."""
        return {found_key(key, self.forward_func): rule for key, rule in self.rules.items()}

    def _interception(self, batch: int) -> Interception:
        rule: LinearRule = Epsilon(self.epsilon)
        if math.isinf(self.gamma):
            rule = ZPlus(self.lost)
        elif self.gamma:
            rule = Gamma(self.gamma, self.epsilon)
        rules = self._found_rules()
        linear = {key: own for key, own in rules.items() if isinstance(own, LinearRule)}
        others = {key: own for key, own in rules.items() if not isinstance(own, LinearRule)}
        return RelevanceInterception(
            "LRP",
            rule,
            linear_rules=KeyedRules(linear) if linear else None,
            sums=self.sums,
            lost=self.lost,
            operations=OwnOperations(others) if others else None,
            attention=self.attention,
            stabilizer=min(self.epsilon, _SMALL) if self.stabilizer is None else self.stabilizer,
        )

    @classmethod
    def get_name(cls) -> str:
        return "LRP"
