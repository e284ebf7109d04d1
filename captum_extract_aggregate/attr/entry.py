"""How a call comes in: `attribute` as Captum's tools expect it, and arguments that a method does not take."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from captum.attr import LayerAttribution
from captum.log import log_usage

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.layers import model_of
from captum_extract_aggregate._engine.model_state import without_traces
from captum_extract_aggregate._engine.one_output import give_scores_to_captum
from captum_extract_aggregate._engine.targets import Target

P = ParamSpec("P")
R = TypeVar("R")

# What Captum's methods take and only some of ours do, with what to do instead.
_CURES = {
    "multiply_by_inputs": "LinearApproximation multiplies the gradient by the activation, LayerGradient does not",
    "memory_efficient": "leave it out: every method holds one pass alone",
    "relu_attributions": "GradCAM, GradCAMPlusPlus, LayerCAM and XGradCAM take it; all others have their sign by "
    "definition",
    "attr_dim_summation": "GradCAM, GradCAMPlusPlus, LayerCAM and XGradCAM take it; with LinearApproximation the "
    "channels are summed",
    "return_convergence_delta": "only what adds up to the score has one: ActivityAttribution, FullGrad, LRP and "
    "ExcitationBackprop",
    "verbose": "leave it out: print(method) shows its rules",
    "attributions": "compute_convergence_delta makes the maps itself: compute_convergence_delta(inputs, target)",
    "output": "compute_convergence_delta makes the maps itself: compute_convergence_delta(inputs, target)",
    "start_point": "there is no baseline: compute_convergence_delta(inputs, target)",
    "end_point": "there is no baseline: compute_convergence_delta(inputs, target)",
    "baselines": "there is no baseline here; Captum's LayerIntegratedGradients and DeepLift have one",
    "n_steps": "there is no path of integration here; Captum's LayerIntegratedGradients has one",
    "internal_batch_size": "one pass over the batch is all there is; give smaller batches",
    "abs": "LayerGradient(model, None) gives magnitudes, LayerGradient(model, None, aggregate='sum') signs",
    "interpolate_mode": "maps have their layer's size; captum.attr.LayerAttribution.interpolate resizes them",
}


def named_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Makes Python's error for arguments that a function does not take one line of ours, with what to do instead.

    Methods whose counterpart in Captum calls the network `model` take it as `forward_func` too, as all others do.
    """
    parameters = inspect.signature(function).parameters
    by_name = {name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    most = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters.values())
    renames = "model" in by_name and "forward_func" not in by_name

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if renames and "forward_func" in kwargs and "model" not in kwargs:
            kwargs["model"] = kwargs.pop("forward_func")
        if len(args) > most:
            raise InvalidTypeError(_too_many(type(args[0]), function, args, parameters))
        unknown = [] if takes_all else [name for name in kwargs if name not in by_name]
        if unknown:
            raise InvalidTypeError(_unknown(type(args[0]), function, unknown[0], by_name))
        return function(*args, **kwargs)

    return checked


def _called(owner: type, function: Callable[..., Any]) -> str:
    name = function.__name__
    return owner.__name__ if name == "__init__" else f"{owner.__name__}.{name}"


def _unknown(owner: type, function: Callable[..., Any], got: str, known: Iterable[str]) -> str:
    called = _called(owner, function)
    if got in _CURES:
        return f"{called} does not take {got}; {_CURES[got]}"
    return unknown_name(f"an argument of {called}", got, [name for name in known if name != "self"])


def _too_many(
    owner: type, function: Callable[..., Any], args: tuple[Any, ...], parameters: Mapping[str, inspect.Parameter]
) -> str:
    by_position = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD][1:]
    by_name = [f"{p.name}=" for p in parameters.values() if p.kind is p.KEYWORD_ONLY]
    return (
        f"{_called(owner, function)} got {len(args) - 1} arguments by position; expected at most {len(by_position)} "
        f"({', '.join(by_position)})" + f", and any others by name: {', '.join(by_name)}" * bool(by_name)
    )


def captum_entry(function: Callable[P, R]) -> Callable[P, R]:
    """Marks `attribute` as Captum does. NoiseTunnel and others call `__wrapped__`, and cannot take a list of maps."""
    checked = named_arguments(function)

    @functools.wraps(function)
    def for_captum(self: Any, *args: Any, **kwargs: Any) -> Any:
        if sys._getframe(1).f_globals.get("__name__", "").startswith("captum.concept"):
            raise InvalidValueError(
                f"layer_attr_method is a {type(self).__name__}, which gives one number per position, but TCAV compares "
                "a concept's direction with one number per activation; expected None (the gradient), or Captum's "
                "LayerGradientXActivation(model, None)"
            )
        if isinstance(self.layer, (list, tuple)) and not self.joins_layers:
            raise InvalidValueError(
                f"layer is a list of {len(self.layer)} layers, but Captum's NoiseTunnel (and whatever else calls "
                "attribute.__wrapped__) takes one map; expected one layer: build one method and tunnel per layer"
            )
        return checked(self, *args, **kwargs)  # type: ignore[arg-type]

    entry = log_usage(part_of_slo=True)(checked)
    entry.__wrapped__ = for_captum
    return entry  # type: ignore[no-any-return]


def takes_keyword(method: Any, name: str) -> bool:
    """Tells whether a method's `attribute` knows a keyword; wrappers hand theirs on."""
    parameters = inspect.signature(method.attribute).parameters
    if name in parameters:
        return True
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return False
    inner = getattr(method, "attribution_method", None)
    return inner is None or takes_keyword(inner, name)


def check_flag(name: str, value: object) -> None:
    """Raises our error for what is neither True nor False."""
    if not isinstance(value, bool):
        raise InvalidTypeError(f"{name} is {value!r}; expected True or False")


def check_grad_kwargs(grad_kwargs: Any) -> None:
    """Raises our error for what Captum hands on to `torch.autograd.grad` and would change what is returned."""
    if grad_kwargs is None:
        return
    if not isinstance(grad_kwargs, Mapping):
        raise InvalidTypeError(f"grad_kwargs is a {type(grad_kwargs).__name__}; expected None or a dictionary")
    if grad_kwargs.get("create_graph"):
        raise InvalidValueError(
            "grad_kwargs holds create_graph, but maps are detached; expected attribute_with_graph(inputs, target)"
        )
    harmless = ("create_graph", "retain_graph", "allow_unused", "materialize_grads")
    changing = [name for name in grad_kwargs if name not in harmless]
    if changing:
        raise InvalidValueError(
            f"grad_kwargs holds {changing[0]!r}, which would change what the map is made of; expected it left out"
        )


def attributed(method: Any, inputs: Any, target: Target, additional_forward_args: Any, to_input: bool) -> Any:
    """Returns what the method's `attribute` gives. It need not take what was not given."""
    given: dict[str, Any] = {"target": target}
    if additional_forward_args is not None:
        given["additional_forward_args"] = additional_forward_args
    if to_input and isinstance(method, LayerAttribution):
        given["attribute_to_layer_input"] = True
    try:
        with Undo() as undo, undo:
            give_scores_to_captum(undo, method)
            return without_traces(method.attribute, model_of(method.forward_func), inputs, **given)
    except (RuntimeError, AssertionError, AttributeError, LookupError) as error:
        if not type(method).__module__.startswith("captum.") or "memory" in str(error):
            raise
        # The model does not meet a requirement of Captum's class, as DeepLift's of its ReLUs.
        raise InvalidValueError(
            f"Captum's {type(method).__name__} does not explain this model: {' '.join(str(error).split())}; expected "
            "another method, or a model as that class wants it"
        ) from error
