"""Methods that change the gradient at rectifiers alone: guided backprop, deconvolution, RectGrad."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._engine.evidence import Evidence
from captum_extract_aggregate._engine.layers import checked_inputs, model_of
from captum_extract_aggregate._engine.layout import Layout
from captum_extract_aggregate._engine.operations import OPERATIONS
from captum_extract_aggregate._engine.recording import Recording, record
from captum_extract_aggregate._engine.taps import Place
from captum_extract_aggregate._engine.targets import Targets
from captum_extract_aggregate.attr.described import described
from captum_extract_aggregate.attr.entry import named_arguments
from captum_extract_aggregate.attr.extract_aggregate.aggregate import AggregateName
from captum_extract_aggregate.attr.layer_types import L
from captum_extract_aggregate.attr.propagation.base import PropagationAttribution
from captum_extract_aggregate.attr.propagation.gated_graph import put_gate, rectifiers_of
from captum_extract_aggregate.attr.propagation.interception import Interception
from captum_extract_aggregate.attr.propagation.lrp_rules import (
    check_number,
)
from captum_extract_aggregate.attr.propagation.relu_interception import GatedInterception
from captum_extract_aggregate.attr.propagation.relu_rules import Gate, RectifiedGate, deconvolution_gate, guided_gate

_WATCHED: weakref.WeakSet[Any] = weakref.WeakSet()  # models, or functions, of which the graph does not tell enough


@described(
    "At the input its shape (a tuple for a tuple), signed; at a layer `N x 1 x *S`, non-negative (signed "
    "for `sum` and `max`); in units of score per unit of activation"
)
class GuidedBackprop(PropagationAttribution[L]):
    r"""Guided backprop: at every ReLU with output a, R passes where :math:`a > 0` and :math:`R > 0`.

    Everything else passes its gradient, smooth activations (GELU, SiLU, ELU, ...) and LSTMs included. Captum's class of
    this name sees `nn.ReLU` modules only and returns the plain gradient for the others; this one sees every ReLU, ReLU6
    (which passes nothing where it saturates), leaky ReLU, PReLU and `clamp(min=0)`, however they are called. A boolean
    mask that may be a rectifier written out is an error; one that puts very low numbers (masked actions) is not.

    At the input: its shape, signed (below the first ReLU all weights act). At a layer: `N x 1 x *S`,
    :math:`\max_k |R_{u,k}|`, or with `aggregate="sum"` :math:`\sum_k R_{u,k}`. In units of score per activation.

    Args:
        model: the model, or any callable that returns a score per example and class. It is called as Captum's class
            calls it; `forward_func=` is taken too.
        layer: None for the input; a module or its dotted name, or a list of those.
        aggregate: of the channels at a layer, as for `ExtractAggregate`.
        device_ids, layout, call: as for `ExtractAggregate`.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected; for functions that are not
            known, or hide their ReLUs (`nn.RNN` with `nonlinearity="relu"`).

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.GuidedBackprop(model).attribute(image[None], target=7).shape
        torch.Size([1, 3, 96, 96])
        >>> cea.GuidedBackprop(model, "layer3").attribute(image[None], target=7).shape
        torch.Size([1, 1, 24, 24])

    Source: Springenberg et al., Striving for Simplicity (ICLR workshop 2015); Rebuffi et al., CVPR 2020, section 4.2.
    """

    _aggregate = "max_abs"

    def is_blind(self, layer: nn.Module | None) -> bool:
        return self._extract == "bias"

    _by_example = False  # whether the gate treats each example by itself

    def _gate(self) -> Gate:
        return guided_gate

    def run_pass(
        self, inputs: Any, places: list[Place], additional_forward_args: Any, targets: Targets
    ) -> Iterator[Evidence]:
        """Runs a plain pass, where its graph tells where the rectifiers are, and else one whose functions are
        watched."""
        recording = self._plain_pass(inputs, places, additional_forward_args)
        if recording is None:
            return super().run_pass(inputs, places, additional_forward_args, targets)
        return recording.evidence(targets)

    def _plain_pass(self, inputs: Any, places: list[Place], additional_forward_args: Any) -> Recording | None:
        """Returns a plain forward with gates in its graph; None where that does not tell enough."""
        model = model_of(self.forward_func)
        known: Any = self.forward_func if model is None else model
        if OPERATIONS.is_changed() or known in _WATCHED:
            return None
        recording = record(self.forward_func, inputs, places, additional_forward_args, self.device_ids)
        rectifiers = rectifiers_of(recording.output, recording.models, self._batch(inputs))
        if rectifiers is None:
            with contextlib.suppress(TypeError):  # of what cannot be remembered
                _WATCHED.add(known)
            return None
        put_gate(self._gate(), rectifiers)
        return recording

    def _batch(self, inputs: Any) -> int | None:
        return len(checked_inputs(inputs)[0]) if self._by_example else None

    def _interception(self, batch: int) -> Interception:
        return GatedInterception(type(self).__name__, self._gate(), batch if self._by_example else None)

    @classmethod
    def get_name(cls) -> str:
        return "Guided Backprop"


@described(
    "At the input its shape (a tuple for a tuple), signed; at a layer `N x 1 x *S`, non-negative (signed "
    "for `sum` and `max`); in units of score per unit of activation"
)
class Deconvolution(GuidedBackprop[L]):
    r"""Deconvolution: at every ReLU, :math:`(R)_+` passes, whether the unit was active or not.

    Otherwise as `GuidedBackprop`, in shapes, units, arguments and errors.

    Args:
        model, layer, device_ids, aggregate, layout, call: as for `GuidedBackprop`.

    Raises:
        TypeError, ValueError: as `GuidedBackprop`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("vgg")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.Deconvolution(model).attribute(image[None], target=7).shape
        torch.Size([1, 3, 96, 96])

    Source: Zeiler and Fergus, Visualizing and Understanding Convolutional Networks (ECCV 2014).
    """

    def _gate(self) -> Gate:
        return deconvolution_gate

    @classmethod
    def get_name(cls) -> str:
        return "Deconvolution"


@described("At the input its shape (a tuple for a tuple), at a layer `N x 1 x *S`; signed, in units of the score")
class RectGrad(GuidedBackprop[L]):
    r"""RectGrad: at every ReLU with output a, R passes where :math:`a R > \tau`.

    :math:`\tau` is the `percentile`-th percentile of :math:`a R` over the channels and positions of that ReLU, for each
    example (which has to lie in dimension 0 there). The attribution is the arriving quantity times the activation:
    :math:`R \odot x` at the input, in its shape; :math:`\sum_k R_{u,k} x_{u,k}` at a layer, `N x 1 x *S`. Signed, in
    units of the score.

    Args:
        model, layer, device_ids, aggregate, layout, call: as for `GuidedBackprop`.
        percentile: between 0 and 100; 98 is the authors' choice.

    Raises:
        TypeError, ValueError: as `GuidedBackprop`; for a percentile out of range.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.RectGrad(model, percentile=90).attribute(image[None], target=7).shape
        torch.Size([1, 3, 96, 96])

    Source: Kim et al., Why are Saliency Maps Noisy? Cause of and Solution to Noisy Saliency Maps (2019); Khakzar et
    al., 2020, section 4.
    """

    _extract, _aggregate = "scaling", "sum"
    _by_example = True
    _magnitude = False

    @named_arguments
    def __init__(
        self,
        model: Callable[..., Any],
        layer: L = None,  # type: ignore[assignment]
        device_ids: list[int] | None = None,
        *,
        percentile: float = 98,
        aggregate: AggregateName | None = None,
        layout: Layout = "auto",
        call: int | None = None,
    ) -> None:
        super().__init__(model, layer, device_ids, aggregate=aggregate, layout=layout, call=call)
        check_number("percentile", percentile)
        if percentile > 100:
            raise InvalidValueError(f"percentile is {percentile}; expected a number between 0 and 100")
        self.percentile = percentile

    @property
    def multiplies_by_inputs(self) -> bool:
        return True

    def _gate(self) -> Gate:
        return RectifiedGate(self.percentile, self._magnitude)

    @classmethod
    def get_name(cls) -> str:
        return "RectGrad"


@described("At the input its shape (a tuple for a tuple), at a layer `N x 1 x *S`; signed, in units of the score")
class RectGradMod(RectGrad[L]):
    r"""Modified RectGrad: at every ReLU with output a, R passes where :math:`|a R| > \tau`: negative evidence too.

    :math:`\tau` is the percentile of :math:`a R`, as for `RectGrad`, which this is otherwise.

    Args:
        model, layer, device_ids, percentile, aggregate, layout, call: as for `RectGrad`.

    Raises:
        TypeError, ValueError: as `RectGrad`.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.RectGradMod(model, "layer2").attribute(image[None], target=7).shape
        torch.Size([1, 1, 48, 48])

    Source: Khakzar et al., Rethinking Positive Aggregation and Propagation (2020), section 4.
    """

    _magnitude = True

    @classmethod
    def get_name(cls) -> str:
        return "RectGrad Mod"
