"""Methods that share the score out, down to a layer or the input: LRP and excitation backprop."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate._engine.autograd_graph import nodes_below
from captum_extract_aggregate._engine.layers import find_layer
from captum_extract_aggregate._engine.layout import Layout
from captum_extract_aggregate._engine.operations import DECLARED, Rule
from captum_extract_aggregate._engine.recording import Around, Recording
from captum_extract_aggregate._engine.targets import Target
from captum_extract_aggregate.attr.base import own
from captum_extract_aggregate.attr.described import described
from captum_extract_aggregate.attr.entry import captum_entry, named_arguments
from captum_extract_aggregate.attr.extract_aggregate.aggregate import AggregateName
from captum_extract_aggregate.attr.layer_types import L, Layers, OneLayer
from captum_extract_aggregate.attr.propagation.base import PropagationAttribution
from captum_extract_aggregate.attr.propagation.interception import Interception
from captum_extract_aggregate.attr.propagation.lrp_rules import (
    Epsilon,
    Gamma,
    LinearRule,
    Lost,
    Sums,
    ZPlus,
    check_number,
    parts_of_sums,
)
from captum_extract_aggregate.attr.propagation.own_operations import OwnOperations
from captum_extract_aggregate.attr.propagation.relevance_interception import LinearStep, RelevanceInterception
from captum_extract_aggregate.attr.with_delta import WithDelta

Rules = Mapping[Any, "LinearRule | str | Rule"]
Clamp = Literal["map", "contrast"]


class RelevanceAttribution(WithDelta[L], PropagationAttribution[L]):
    """Methods that share a quantity out, so that one can ask whether all of it arrived."""

    # A sum has to know all its addends, also those that come past the layer, from constants.
    _from_the_start = True

    @named_arguments
    def compute_convergence_delta(  # type: ignore[override]
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
    ) -> Tensor | list[Tensor]:
        """Returns what arrives at each layer minus what was sent from the score: `N` per layer. Costs one more pass.

        It is what was lost above the layer, up to rounding: what biases and the stabiliser have absorbed, or, with the
        z+ rule, what units without any positive contribution had to pass on, and sums of addends that cancel exactly.
        At a layer that parallel branches bypass it is also what went through them.
        """
        places = [first for first, *_ in self.plan(attribute_to_layer_input)]
        (evidence,) = self.run_pass(inputs, list(places), additional_forward_args, [target])
        sent = self._seed(evidence.scores).double()
        deltas = []
        for place in places:
            arrived = [R.double().reshape(len(sent), -1).sum(1) for R in evidence.gradients[place]]
            deltas.append((torch.stack(arrived).sum(0) - sent).to(evidence.scores.dtype))
        return deltas if isinstance(self.layer, (list, tuple)) else deltas[0]


@described("At the input its shape (a tuple for a tuple), at a layer `N x 1 x *S`; signed, in units of the score")
class LRP(RelevanceAttribution[L]):
    r"""Layer-wise relevance propagation, LRP-:math:`\gamma`, from the explained logit; `gamma=0` is LRP-0.

    With contributions :math:`z_{jk} = a_j w_{jk}`, at every convolution, linear layer and matrix product

    .. math:: R_j = \sum_k \frac{c_{jk}}{c_k + \sum_i c_{ik}} R_k, \quad c_{jk} = z_{jk} + \gamma (z_{jk})_+,
              \quad c_k = b_k + \gamma (b_k)_+

    (for :math:`a \ge 0`, :math:`c_{jk}` is :math:`a_j (w_{jk} + \gamma w_{jk}^+)`). Where the output is negative,
    negative parts stand in place of positive ones, so that no denominator vanishes. The bias takes its share, so that
    the attributions sum to the logit less that: `compute_convergence_delta` reports it. A BatchNorm is joined with the
    convolution in front of it, or else counts as an affine operation; LayerNorm and GroupNorm count as affine with
    their statistics held fixed. R passes ReLUs and other activations unchanged, goes to the winner of a maximum, and is
    shared among the addends of a sum and the positions of an average in proportion to their values. LRP-0 then is
    gradient x input on networks of ReLUs.

    With `gamma=math.inf` it is the z+ rule, equal to LRP-:math:`\alpha_1\beta_0` and to excitation backprop times the
    logit: biases, padding and normalisations play no part, and `epsilon` is not needed. It sums to the logit, less what
    units without any positive contribution would have had to pass on; `sums` and `lost` are as for
    `ExcitationBackprop`.

    At the input: its shape. At a layer: `N x 1 x *S`, :math:`\sum_k R_{u,k}`. Signed, in units of the score.

    Args:
        model, layer, device_ids, aggregate, layout, call: as for `GuidedBackprop`.
        gamma: from 0 to `math.inf`; values around 0.25 favour positive contributions and calm deep networks.
        epsilon: moves denominators away from 0.
        rules: other rules for some layers, a composite: a mapping from layer types, dotted names or modules to rules of
            `captum_extract_aggregate.rules` (`Epsilon`, `Gamma`, `AlphaBeta`, `ZPlus`, `Flat`, `WSquare`, `ZBox`). A
            rule holds for all linear operations inside the layer; names win over types, inner layers over outer ones.
            For non-linear operations `"relu"`, `"identity"`, `"gradient"` or a callable, as for `register_operation`
            but of this object alone: by the function (`{torch.sigmoid: "gradient"}`, however it is spelled where it is
            called), or by a layer that calls some (`{nn.SiLU: "gradient"}`).
        sums, lost: with `gamma=math.inf`, as for `ExcitationBackprop`.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected; for gates (products of two
            activations), softmax, attention, and functions that are not known: see `register_operation`.

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

    Source: Montavon et al., Layer-Wise Relevance Propagation: An Overview (2019); Khakzar et al., 2020, section 4.
    """

    @named_arguments
    def __init__(
        self,
        model: Callable[..., Any],
        layer: L = None,  # type: ignore[assignment]
        device_ids: list[int] | None = None,
        *,
        gamma: float = 0.0,
        epsilon: float = 1e-9,
        rules: Rules | None = None,
        sums: Sums = "signed",
        lost: Lost = "drop",
        aggregate: AggregateName | None = None,
        layout: Layout = "auto",
        call: int | None = None,
    ) -> None:
        super().__init__(model, layer, device_ids, aggregate=aggregate, layout=layout, call=call)
        check_number("gamma", gamma, may_be_infinite=True)
        check_number("epsilon", epsilon)
        parts_of_sums(sums, lost)
        if (sums, lost) != ("signed", "drop") and not math.isinf(gamma):
            raise InvalidValueError(
                f"sums is {sums!r} and lost {lost!r}, but gamma is {gamma}; expected gamma=math.inf, or 'signed' and "
                "'drop': a finite gamma has its own shares for sums, and loses what the biases take"
            )
        self.gamma, self.epsilon, self.sums, self.lost = gamma, epsilon, sums, lost
        self.rules = dict(rules or {}) if rules is None or isinstance(rules, Mapping) else _not_a_mapping(rules)
        for key, rule in self.rules.items():
            _check_rule(key, rule)
        self._named_rules()

    @property
    def multiplies_by_inputs(self) -> bool:
        return True

    def argument(self, name: str) -> Any:
        """Without rules there is nothing to write."""
        return (self.rules or None) if name == "rules" else super().argument(name)

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

    def _named_rules(self) -> dict[Any, LinearRule | str | Rule]:
        """Returns the rules by function, module or type; names are looked up in the model."""
        return {
            find_layer(key, self.forward_func) if isinstance(key, (str, nn.Module)) else key: rule
            for key, rule in self.rules.items()
        }

    def _interception(self, batch: int) -> Interception:
        rule: LinearRule = Epsilon(self.epsilon)
        if math.isinf(self.gamma):
            rule = ZPlus(self.lost)
        elif self.gamma:
            rule = Gamma(self.gamma, self.epsilon)
        rules = self._named_rules()
        linear = {key: own for key, own in rules.items() if isinstance(own, LinearRule)}
        others = {key: own for key, own in rules.items() if not isinstance(own, LinearRule)}
        operations = OwnOperations(others) if others else None
        return RelevanceInterception("LRP", rule, linear, sums=self.sums, lost=self.lost, operations=operations)

    @classmethod
    def get_name(cls) -> str:
        return "LRP"


def _not_a_mapping(rules: Any) -> dict[Any, LinearRule]:
    raise InvalidTypeError(
        f"rules is a {type(rules).__name__}; expected a mapping from layer types, dotted names or modules to rules of "
        "captum_extract_aggregate.rules: {'conv1': Flat()}"
    )


def _check_rule(key: Any, rule: Any) -> None:
    is_layer = isinstance(key, (str, nn.Module)) or (isinstance(key, type) and issubclass(key, nn.Module))
    is_function = callable(key) and not is_layer and not isinstance(key, type)
    if not is_layer and not is_function:
        raise InvalidTypeError(
            f"rules has the key {key!r}; expected a layer type (nn.Conv2d), a dotted name, a module or a function"
        )
    if isinstance(rule, LinearRule):
        if is_function:
            raise InvalidTypeError(
                f"rules holds {type(rule).__name__} for the function {key!r}; expected a layer's type, name or module "
                f"as its key, or one of {', '.join(map(repr, DECLARED))} or a callable how(quantity, output, *inputs)"
            )
    elif isinstance(rule, str):
        if rule not in DECLARED:
            raise InvalidValueError(unknown_name(f"the rule for {key!r}", rule, DECLARED))
    elif not callable(rule) or isinstance(rule, type):
        got = rule.__name__ if isinstance(rule, type) else type(rule).__name__
        raise InvalidTypeError(
            f"rules holds {got} for {key!r}; expected a rule of captum_extract_aggregate.rules, such as Gamma(0.25), "
            f"or, for non-linear operations, one of {', '.join(map(repr, DECLARED))} or a callable "
            "how(quantity, output, *inputs)"
        )


@described(
    "At the input its shape (a tuple for a tuple), at a layer `N x 1 x *S`; a share of 1, which the whole "
    "map sums to less what was lost"
)
class ExcitationBackprop(RelevanceAttribution[L]):
    r"""Excitation backprop: the probability that a winner-take-all walk down the network meets each unit.

    From 1 at the explained score, at every convolution, linear layer and matrix product

    .. math:: R_j = \sum_k \frac{(a_j w_{jk})_+}{\sum_i (a_i w_{ik})_+} R_k

    Biases play no part, nor does padding, however it is written. R passes activations and normalisations unchanged and
    goes to the winner of a maximum. At a sum each addend gets its signed share :math:`a_i / \sum_i a_i`, and likewise
    each position of an average (0 where they cancel exactly).

    A unit without any positive contribution, which lives from its bias, passes nothing on. So the attributions sum to 1
    less what such units would have had to pass on, which `compute_convergence_delta` reports. In networks with
    BatchNorm and ReLU6 that may be most of it.

    At the input: its shape. At a layer: `N x 1 x *S`, :math:`\sum_k R_{u,k}`. Non-negative where no addend is negative
    (VGG); behind a residual sum of both signs addends that nearly cancel, 1 and -0.99 say, get large shares of both
    signs, 100 and -99: spikes.

    Args:
        model, layer, device_ids, aggregate, layout, call: as for `GuidedBackprop`.
        sums: `"signed"`, as published, or `"positive"`: shares of the positive parts, so that no map has spikes or
            negative values, but what an addend inhibits is not seen.
        lost: `"drop"`, as published, or `"spread"`: a unit without any positive contribution shares by magnitude
            instead, or equally where all are zero. Nothing is lost then, but inputs that only inhibit receive
            relevance, and in some networks most of a map is of that kind. Likewise at sums.

    Raises:
        TypeError, ValueError: as `LRP`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> method = cea.ExcitationBackprop(model, "layer3")
        >>> attribution, delta = method.attribute(image[None], target=7, return_convergence_delta=True)
        >>> tuple(attribution.shape), round(float(attribution.sum() - delta), 3)
        ((1, 1, 24, 24), 1.0)
        >>> calm = cea.ExcitationBackprop(model, "layer3", sums="positive", lost="spread")
        >>> float(calm.attribute(image[None], target=7).min()) >= 0
        True

    Source: Zhang et al., Top-down Neural Attention by Excitation Backprop (ECCV 2016), section 3; the shares at sums
    are those of its authors' code.
    """

    @named_arguments
    def __init__(
        self,
        model: Callable[..., Any],
        layer: L = None,  # type: ignore[assignment]
        device_ids: list[int] | None = None,
        *,
        sums: Sums = "signed",
        lost: Lost = "drop",
        aggregate: AggregateName | None = None,
        layout: Layout = "auto",
        call: int | None = None,
    ) -> None:
        super().__init__(model, layer, device_ids, aggregate=aggregate, layout=layout, call=call)
        parts_of_sums(sums, lost)
        self.sums, self.lost = sums, lost

    def _interception(self, batch: int) -> Interception:
        return self._excitation()

    def _excitation(self, watch: nn.Module | None = None) -> Interception:
        name = type(self).__name__
        return RelevanceInterception(name, ZPlus(self.lost), watch=watch, sums=self.sums, lost=self.lost)

    @classmethod
    def get_name(cls) -> str:
        return "Excitation Backprop"


@described(
    "At the input its shape (a tuple for a tuple), at a layer `N x 1 x *S`; non-negative, a difference of "
    "two shares of 1"
)
class ContrastiveExcitationBackprop(ExcitationBackprop[L]):
    r"""Contrastive excitation backprop: what speaks for the class more than against it.

    At the contrast layer (the input of the classifier), P is what excitation backprop sends there, and
    :math:`\bar P` the same with the classifier's weights negated, the dual unit "not this class". The difference
    :math:`P - \bar P` is propagated on by excitation backprop, and the map is its positive part,
    :math:`(\sum_k R_{u,k})_+` at a layer, `N x 1 x *S`, and :math:`(R)_+` at the input, in its shape. Non-negative.

    With `clamp="contrast"` it is :math:`(P - \bar P)_+` that is propagated on. If the classifier is a linear layer, or
    a 1 x 1 convolution, no input both excites a class and its dual, so that this is excitation backprop again.

    Args:
        model, layer, device_ids, aggregate, layout, call: as for `GuidedBackprop`. The layer lies in front of
            the contrast layer.
        contrast_layer: a module or its dotted name, at whose output the contrast is taken; None for the input of the
            last linear layer or convolution (the classifier, whose weights are negated in any case).
        clamp: `"map"` (the original algorithm) or `"contrast"`.
        sums, lost: as for `ExcitationBackprop`.

    Raises:
        TypeError, ValueError: as `LRP`; where no single classifier can be found.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.ContrastiveExcitationBackprop(model, "layer3").attribute(image[None], target=7).shape
        torch.Size([1, 1, 24, 24])

    Source: Zhang et al., Top-down Neural Attention by Excitation Backprop (ECCV 2016), section 3.3.
    """

    @named_arguments
    def __init__(
        self,
        model: Callable[..., Any],
        layer: L = None,  # type: ignore[assignment]
        device_ids: list[int] | None = None,
        *,
        contrast_layer: OneLayer = None,
        clamp: Clamp = "map",
        sums: Sums = "signed",
        lost: Lost = "drop",
        aggregate: AggregateName | None = None,
        layout: Layout = "auto",
        call: int | None = None,
    ) -> None:
        super().__init__(model, layer, device_ids, sums=sums, lost=lost, aggregate=aggregate, layout=layout, call=call)
        if clamp not in get_args(Clamp):
            raise InvalidValueError(unknown_name("clamp", clamp, get_args(Clamp)))
        self.contrast_layer = find_layer(contrast_layer, model)  # type: ignore[arg-type]
        self.clamp = clamp

    def _interception(self, batch: int) -> Interception:
        return self._excitation(watch=self.contrast_layer)

    def _around(self, recording: Recording) -> Around:
        @contextlib.contextmanager
        def contrasted(scores: Tensor) -> Iterator[None]:
            """Whatever arrives at the contrast layer within is replaced by the contrast."""
            classifier = _classifier(scores)
            features = classifier.saved_tensors[0]
            at = features if self.contrast_layer is None else self._watched(recording.context)
            if classifier in nodes_below([at.grad_fn]):
                raise InvalidValueError("contrast_layer lies behind the classifier; expected a layer in front of it")
            if not recording.leads_to(at):
                raise InvalidValueError(
                    "a layer does not lie in front of the contrast layer; expected one whose output the classifier's "
                    "input (or contrast_layer) is computed from"
                )
            (R,) = torch.autograd.grad(
                scores, [GradientEdge(classifier, 0)], torch.ones_like(scores), retain_graph=True
            )
            dual = classifier.step.dual(R, classifier.saved_tensors)
            difference = self._arriving(scores, at, torch.ones_like(scores))
            difference = difference - (dual if at is features else self._arriving(features, at, dual))
            if self.clamp == "contrast":
                difference = difference.clamp(min=0)
            handle = at.register_hook(lambda R: difference)
            try:
                yield
            finally:
                handle.remove()

        return contrasted

    def _watched(self, interception: Interception) -> Tensor:
        if len(interception.watched) != 1:
            raise InvalidValueError(
                f"contrast_layer gave {len(interception.watched)} tensors in the forward; expected one: a layer that "
                "runs once, in front of the classifier"
            )
        return interception.watched[0]

    def _arriving(self, above: Tensor, at: Tensor, sent: Tensor) -> Tensor:
        (R,) = torch.autograd.grad(above, at, sent, retain_graph=True, allow_unused=True)
        if R is None:
            raise InvalidValueError(
                "the explained score does not depend on contrast_layer; expected a layer in front of the classifier"
            )
        return R

    def map_of(self, layer: nn.Module | None, x: Tensor, g: Tensor) -> Tensor:
        return super().map_of(layer, x, g).clamp(min=0)

    def _at_input(self, x: Tensor, R: Tensor) -> Tensor:
        return R.clamp(min=0)

    def has_convergence_delta(self) -> bool:
        return False

    @classmethod
    def get_name(cls) -> str:
        return "Contrastive Excitation Backprop"


def _classifier(scores: Tensor) -> Any:
    """Returns the node of the one linear step that is met first on all ways down from the scores."""

    def is_linear(node: Any) -> bool:
        return isinstance(getattr(node, "step", None), LinearStep)

    found = [node for node in nodes_below([scores.grad_fn], lambda node: not is_linear(node)) if is_linear(node)]
    if len(found) != 1:
        raise InvalidValueError(
            f"{len(found)} linear layers or convolutions lead to the explained score without another behind them; "
            "expected one, the classifier (explain one head at a time)"
        )
    return found[0]
