"""Balanced gradients: any method of gradients, with gradients that are complete on networks of gates and attention."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from captum._utils.common import _format_additional_forward_args
from captum.attr import Attribution, DeepLift, GradientAttribution, GuidedBackprop, LayerDeepLift
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.added import Added
from captum_extract_aggregate._engine.evidence import Evidence
from captum_extract_aggregate._engine.layers import checked_inputs, model_of
from captum_extract_aggregate._engine.model_state import without_traces
from captum_extract_aggregate._engine.outputs import find_scores
from captum_extract_aggregate._engine.recording import Recording, Seed, record
from captum_extract_aggregate._engine.taps import Place
from captum_extract_aggregate._engine.targets import Target, Targets
from captum_extract_aggregate.attr.base import CaptureAttribution, is_own, own
from captum_extract_aggregate.attr.bias_terms import BiasTerm, Listing, bias_terms
from captum_extract_aggregate.attr.convergence import is_bypassed, warn_of_bypass
from captum_extract_aggregate.attr.described import described
from captum_extract_aggregate.attr.entry import captum_entry, named_arguments
from captum_extract_aggregate.attr.propagation.balanced_interception import BalancedInterception, Ledger
from captum_extract_aggregate.attr.wrapping import WrappingAttribution

Unknown = Literal["error", "gradient"]
_UNKNOWN = ("error", "gradient")
_NAME = "LibraGrad"


@described("What the wrapped method's `attribute` returns, in its shapes and units")
class LibraGrad(WrappingAttribution):
    r"""LibraGrad: any gradient method, of balanced gradients; returns what the wrapped method returns.

    In the backward pass whatever only gates or normalises is held constant: softmax attention weights, y / x of an
    activation y (GELU, SiLU, Hardswish, tanh, ReLU6, ...), sigmoid gates, the activated factor of a product (GLU,
    SwiGLU), the spread of LayerNorm, RMSNorm and GroupNorm. Of other products half goes to each factor. With the
    gradient :math:`\tilde g` so defined

    .. math:: f = \sum \tilde g \, x + \sum \tilde g \, b

    holds exactly at the input and at every cut through the network, where the biases b are all that is added behind
    it: class tokens and position embeddings, too; `bias_terms` lists them, each in its place. On networks of ReLUs,
    :math:`\tilde g = g`, bit for bit. Shapes and units are the wrapped method's.

    `IntegratedGradients` within is a mean of balanced gradients along its path. As these are no derivatives, its own
    delta (`return_convergence_delta=True`: the sum of its map less f(inputs) - f(baselines)) does not vanish with
    `n_steps`, and says what the mean misses; on networks of ReLUs it is what it always is.

    The model is not changed, and its scores are what they are. Methods of this package that are wrapped share one
    forward and one backward (`attribute_together`).

    Args:
        attribution_method: an attribution object of this package or of Captum that works by gradients: NormGrad,
            GradCAM, `captum.attr.IntegratedGradients`, ...; MetaSaliency, LayerCombination and NoiseTunnel of those.
        unknown: what becomes of a function that is not understood: `"error"`, or `"gradient"`: its plain gradient,
            with a warning.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected; for a function of the model
            that is not understood, naming it.

    Example:
        >>> import torch
        >>> import captum_extract_aggregate as cea
        >>> layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(288, 2)]
        >>> model = torch.nn.Sequential(*layers)
        >>> x = torch.randn(1, 3, 8, 8)
        >>> method = cea.LibraGrad(cea.ActivityAttribution(model, "0"))
        >>> method.attribute(x, target=1).shape
        torch.Size([1, 1, 6, 6])
        >>> bool(method.compute_convergence_delta(x, target=1).abs().max() < 1e-4)
        True
        >>> [(term.name, term.map is not None) for term in method.bias_terms(x, target=1)]
        [('0.bias', True), ('3.bias', False)]

    Source: Mehri et al., LibraGrad (CVPR 2025); the held branch of gated products is this package's choice.
    """

    uses_parameters = True

    @named_arguments
    def __init__(self, attribution_method: Attribution, *, unknown: Unknown = "error") -> None:
        if not isinstance(attribution_method, Attribution):
            raise InvalidTypeError(
                f"attribution_method is a {type(attribution_method).__name__}; expected an attribution object, such as "
                "NormGrad(model, layer)"
            )
        if not isinstance(unknown, str) or unknown not in _UNKNOWN:
            raise InvalidValueError(unknown_name("unknown", unknown, _UNKNOWN))
        GradientAttribution.__init__(self, attribution_method.forward_func)
        self.device_ids = getattr(attribution_method, "device_ids", None)
        self.attribution_method, self.unknown = attribution_method, unknown
        inner = getattr(attribution_method, "attribution_method", None)
        self._wraps: Any = None  # what runs by itself, balanced; None: this object shares its pass
        if isinstance(inner, Attribution):
            self._wraps = copy.copy(attribution_method)
            self._wraps.attribution_method = (
                inner if isinstance(inner, LibraGrad) else LibraGrad(inner, unknown=unknown)
            )
        elif isinstance(attribution_method, CaptureAttribution):
            if not attribution_method.has_plain_pass:
                raise _refused(attribution_method, "has rules of its own for the backward pass")
            if not is_own(attribution_method, "attribute"):
                raise _refused(attribution_method, "has an attribute of its own, which a balanced pass does not call")
        else:
            self._wraps = self._foreign(attribution_method)

    def _foreign(self, method: Any) -> Any:
        """Returns a copy of another library's method, in whose forwards alone gradients are balanced."""
        ours = copy.copy(method)
        inner = getattr(method, "methods", None)  # LayerByLayer
        if isinstance(inner, list):
            ours.methods = [LibraGrad(m, unknown=self.unknown) for m in inner]
            return ours
        refused = (DeepLift, LayerDeepLift, GuidedBackprop.__mro__[1])
        if not isinstance(method, GradientAttribution) or isinstance(method, refused):
            raise _refused(method, "does not work by plain gradients")
        ours.forward_func = _Balanced(method.forward_func, self.unknown)
        return ours

    @property
    def shares_pass(self) -> bool:  # type: ignore[override]
        return self._wraps is None

    @property
    def layer(self) -> Any:
        """The wrapped method's."""
        return super().layer

    @layer.setter
    def layer(self, layer: Any) -> None:
        self.attribution_method.layer = layer
        if self._wraps is not None:
            self._wraps.layer = layer

    def run_pass(
        self, inputs: Any, places: list[Place], additional_forward_args: Any, targets: Targets
    ) -> Iterator[Evidence]:
        recording = self._recorded(inputs, places, additional_forward_args)

        def with_added(target: Target, evidence: Evidence) -> Evidence:
            added = functools.partial(self._added, inputs, places, additional_forward_args, target)
            return dataclasses.replace(evidence, added=added)

        wanted = targets(recording.output) if callable(targets) else targets
        return map(with_added, wanted, recording.evidence(wanted))

    def _added(self, inputs: Any, places: list[Place], extra: Any, target: Target) -> list[Added]:
        """Returns what the network adds to the score in one more pass: behind its input, or the places if that is of
        indices, which have no gradient."""
        at_input = all(t.is_floating_point() for t in checked_inputs(inputs))
        (added,) = self._listed(inputs, [Place(None, "input")] if at_input else places, extra, [target])
        return added

    def _listed(
        self, inputs: Any, places: list[Place], extra: Any, targets: Sequence[Target], seed: Seed = torch.ones_like
    ) -> Iterator[list[Added]]:
        """Yields what the network adds, for each backward."""
        listing = Listing(model_of(self.forward_func), _format_additional_forward_args(extra) or ())
        recording = self._recorded(inputs, places, extra, listing, listing.begin)
        yield from (listing.take() for _ in recording.evidence(targets, seed))

    def _recorded(
        self,
        inputs: Any,
        places: list[Place],
        extra: Any,
        ledger: Ledger | None = None,
        first: Callable[[Undo, Sequence[Tensor]], None] | None = None,
    ) -> Recording:
        """Returns one balanced forward; `first` is begun before the gradients are balanced, so that it sees less."""

        def within(undo: Undo, leaves: Sequence[Tensor]) -> BalancedInterception:
            if first is not None:
                first(undo, leaves)
            interception = BalancedInterception(_NAME, self.unknown, ledger)
            interception.begin(undo)
            return interception

        recording = record(self.forward_func, inputs, places, extra, self.device_ids, within, from_the_start=True)
        if self.unknown == "error":
            recording.context.check(recording.output)
        return recording

    def pass_key(self) -> Any:
        return _NAME, self.unknown

    @own
    @captum_entry
    def attribute(  # type: ignore[override]
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Returns what the wrapped method's `attribute` gives; other keywords are handed to it."""
        if self._wraps is not None:
            given = {"target": target, "additional_forward_args": additional_forward_args, **kwargs}
            given = {name: value for name, value in given.items() if value is not None}
            if given.get("attribute_to_layer_input") is False:
                del given["attribute_to_layer_input"]  # the default; methods for inputs do not know it
            copies = tuple(t.detach().clone() for t in checked_inputs(inputs))  # which Captum marks, and may leave so
            given["inputs"] = copies if isinstance(inputs, tuple) else copies[0]
            return without_traces(self._wraps.attribute, model_of(self.forward_func), **given)
        delta = kwargs.pop("return_convergence_delta", False)
        maps = super().attribute(inputs, target, additional_forward_args, **kwargs)
        if not delta:
            return maps
        kwargs.pop("grad_kwargs", None)
        return maps, self.compute_convergence_delta(inputs, target, additional_forward_args, **kwargs)

    def has_convergence_delta(self) -> bool:
        return self._wraps is None or bool(self._wraps.has_convergence_delta())

    @named_arguments
    def compute_convergence_delta(  # type: ignore[override]
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
    ) -> Tensor | list[Tensor]:
        """Returns activations times balanced gradients at each layer, plus all that is added behind it, minus the
        score: `N` per layer, in its units.

        0 up to rounding at every cut through the network; NaN where other branches bypass the layer. Costs two
        passes per layer. (Of the input, for methods that join their layers.)
        """
        if isinstance(self._wraps, GradientAttribution):
            raise InvalidTypeError(
                f"attribution_method is {type(self._wraps).__name__}, whose delta is of its own maps and their "
                "baseline; expected attribute(..., return_convergence_delta=True) where it has one, or "
                "LibraGrad(ActivityAttribution(model, None)), which tells what is missing to the score"
            )
        if self._wraps is not None:
            return self._wraps.compute_convergence_delta(inputs, target, additional_forward_args)  # type: ignore[no-any-return]
        capturing = self.capturing()
        joined = capturing.joins_layers
        places = [Place(None, "input")] if joined else [of[-1] for of in capturing.plan(attribute_to_layer_input)]
        deltas = [self._delta(place, inputs, target, additional_forward_args) for place in places]
        return deltas if isinstance(self.layer, (list, tuple)) and not joined else deltas[0]

    @named_arguments
    def bias_terms(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
    ) -> list[BiasTerm]:
        """Returns whatever the network adds to the signal, call by call: what of it lies where, in units of the score.

        The biases of layers, as `BiasAttribution` shows them, and all others: class tokens, position embeddings,
        parameters that are used without calling a layer. With x the inputs, `sum(x * gradient) + sum(term.map) +
        sum(term.elsewhere)` over all terms is the score. Costs a forward, and a backward for each example.
        """
        examples, place = len(checked_inputs(inputs)[0]), Place(None, "input")
        # What is added need not know which example it is added to (heads, windows, sequences first), so that each
        # example has a backward of its own.
        added = self._listed(inputs, [place], additional_forward_args, [target] * examples, _one_by_one())
        return bias_terms(added, examples)

    def _delta(self, place: Place, inputs: Any, target: Target, extra: Any) -> Tensor:
        entries: list[float] = []
        recording = self._recorded(
            inputs, [place], extra, lambda call, output: lambda values: entries.append(float(values.sum()))
        )
        examples, deltas = len(recording.inputs[0]), []
        for i, evidence in enumerate(recording.evidence([target] * examples, _one_by_one())):
            pairs = zip(evidence.activations[place], evidence.gradients[place])
            activities = sum(float((x.double() * g.double()).sum()) for x, g in pairs)
            deltas.append(activities + sum(entries) - float(evidence.scores[i].double()))
            entries.clear()
        found = evidence.scores.new_tensor(deltas)
        if not is_bypassed(self.forward_func, inputs, target, extra, place):
            return found
        warn_of_bypass(place, evidence.models, stacklevel=3)
        return torch.full_like(found, torch.nan)

    @classmethod
    def get_name(cls) -> str:
        return _NAME


def _one_by_one() -> Seed:
    """Returns what sends each backward down from the score of one more example alone."""
    numbers = itertools.count()
    return lambda scores: torch.zeros_like(scores).index_fill_(0, torch.tensor(next(numbers), device=scores.device), 1)


class _Balanced:
    """A forward function in which gradients are balanced, and parameters are constants."""

    def __init__(self, forward_func: Any, unknown: str) -> None:
        self.forward_func, self.unknown = forward_func, unknown

    def __getattr__(self, name: str) -> Any:
        if name in ("forward_func", "unknown"):
            raise AttributeError(name)
        return getattr(self.forward_func, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        model = model_of(self.forward_func)
        with Undo() as undo, undo:
            for p in () if model is None else [p for p in model.parameters() if p.requires_grad]:
                undo.callback(p.requires_grad_, True)
                p.requires_grad_(False)
            interception = BalancedInterception(_NAME, self.unknown)
            interception.begin(undo)
            output = find_scores(self.forward_func(*args, **kwargs))
        if self.unknown == "error":
            interception.check(output)
        return output


def _refused(method: Any, why: str) -> InvalidTypeError:
    return InvalidTypeError(
        f"attribution_method is {type(method).__name__}, which {why}; expected a method of gradients, such as "
        "NormGrad, GradCAM, captum.attr.Saliency or IntegratedGradients"
    )
