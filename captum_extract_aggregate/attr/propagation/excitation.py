"""Excitation backprop, and its contrast between a class and what is not the class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from captum_extract_aggregate._common.errors import InvalidValueError, unknown_name
from captum_extract_aggregate._engine.autograd_graph import nodes_below
from captum_extract_aggregate._engine.layers import find_layer
from captum_extract_aggregate._engine.layout import Layout
from captum_extract_aggregate._engine.recording import Recording, Start
from captum_extract_aggregate.attr.described import described
from captum_extract_aggregate.attr.entry import named_arguments
from captum_extract_aggregate.attr.extract_aggregate.aggregate import AggregateName
from captum_extract_aggregate.attr.layer_types import L, OneLayer
from captum_extract_aggregate.attr.propagation.interception import Interception
from captum_extract_aggregate.attr.propagation.lrp_rules import Lost, ZPlus
from captum_extract_aggregate.attr.propagation.relevance_interception import RelevanceInterception
from captum_extract_aggregate.attr.propagation.relevance_methods import RelevanceAttribution
from captum_extract_aggregate.attr.propagation.relevance_steps import LinearStep
from captum_extract_aggregate.attr.propagation.shares import Sums, parts_of_sums

Clamp = Literal["map", "contrast"]


@described(
    "At the input its shape (a tuple for a tuple), at a layer `N x 1 x *S`; a share of 1, which the whole "
    "map sums to less what was lost"
)
class ExcitationBackprop(RelevanceAttribution[L]):
    r"""Excitation backprop: the probability that a winner-take-all walk down the network meets each unit.

    From 1 at the explained score, at every convolution, linear layer and matrix product

    .. math:: R_j = \sum_k \frac{(a_j w_{jk})_+}{\sum_i (a_i w_{ik})_+} R_k

    Biases play no part, nor does padding, however it is written. R passes activations and normalisations unchanged and
    goes to the winner of a maximum. In a product with a gate (squeeze and excitation) the signal takes all; attention
    has no rule here, and is an error. At a sum each addend gets its signed share :math:`a_i / \sum_i a_i`, and likewise
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

    def _start(self, recording: Recording) -> Start:
        def contrasted(scores: Tensor, sent: Tensor) -> tuple[Tensor, Tensor]:
            """Begins at the contrast layer, with the contrast."""
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
            (R,) = torch.autograd.grad(scores, [GradientEdge(classifier, 0)], sent, retain_graph=True)
            dual = classifier.step.dual(R, classifier.saved_tensors)
            difference = self._arriving(scores, at, sent)
            difference = difference - (dual if at is features else self._arriving(features, at, dual))
            return at, difference.clamp(min=0) if self.clamp == "contrast" else difference

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
