"""Puts the methods into the list of Captum Insights, with the layer by its name and numbers in fields."""

from __future__ import annotations

import importlib
from typing import Any

import captum
from captum.attr import FeatureAblation, IntegratedGradients
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError
from captum_extract_aggregate._engine.default_layers import default_layers
from captum_extract_aggregate.insights.ablation import PATCHES, PatchAblation
from captum_extract_aggregate.insights.adapter import adapter, usual
from captum_extract_aggregate.insights.offered import INPUT, LIMITS, fields, is_captums, method, names

INSTALL = 'pip install "captum[insights]==0.8.0" "numpy<2"'


def register(model: nn.Module | None = None, inputs: Tensor | tuple[Tensor, ...] | None = None) -> list[str]:
    """Puts all methods of this package, and Captum's layer methods, into the list of Captum Insights.

    Of a model with several inputs each image (`N x C x H x W`) gets a map of its own: what arrives there at the input,
    or the map of a layer if the layer depends on that image, else zeros. Other inputs (features, token indices) get
    what Captum's methods give them, and what a propagation method gives them at the input; a layer's map has no place
    there: zeros. Feature Ablation takes images by square patches, other inputs value by value, as Captum does.

    Args:
        model: its layers are offered by name; None: the layer's name is typed in, and nothing typed is the last of
            `default_layers` (for methods that say nothing of the class in front of global pooling, such as NormGrad,
            the one before it).
        inputs: an input of the model, `1 x C x H x W` (a tuple where it takes several), from which the default layers
            are found more surely.

    Returns:
        The names of the methods.

    Raises:
        ImportError: where Captum has no Insights (0.9), or they are not installed; it says how to install them.
        TypeError: for a model that is no module.
    """
    config = captum_insights()
    if model is not None and not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module (or None)")
    ends, others = _layers(model, inputs)
    for name in names():
        shown = fields(config, name)
        if "layer" in shown and model is not None:
            of_kind = _of_kind(name, model, inputs) if method(name).needs_layers else []
            at_input = [] if is_captums(name) else [INPUT]
            first = of_kind if method(name).needs_layers else [*ends, *at_input]
            offered = [*first, *(layer for layer in others if layer not in first)] or [INPUT]
            chosen = of_kind[-1:] or usual(name, ends) or (first or offered)[-1:]
            shown["layer"] = config.StrEnumConfig(value=chosen[0], limit=offered)
        config.ATTRIBUTION_NAMES_TO_METHODS[name] = adapter(name)
        config.ATTRIBUTION_METHOD_CONFIG[name] = config.ConfigParameters(params=shown)
    # Captum's goes through the image value by value, for minutes in which the page answers nothing
    config.ATTRIBUTION_NAMES_TO_METHODS[FeatureAblation.get_name()] = PatchAblation
    config.ATTRIBUTION_METHOD_CONFIG[FeatureAblation.get_name()] = config.ConfigParameters(
        params={"patches": config.NumberConfig(value=8, limit=PATCHES)}
    )
    # Captum's has no end, and takes all steps at once
    path = config.ATTRIBUTION_METHOD_CONFIG[IntegratedGradients.get_name()]
    steps = path.params["n_steps"]._replace(limit=(2, LIMITS[1]))
    config.ATTRIBUTION_METHOD_CONFIG[IntegratedGradients.get_name()] = path._replace(
        params=path.params | {"n_steps": steps}
    )
    return names()


def captum_insights() -> Any:
    """Returns the module of Insights that lists its methods, or our error."""
    try:
        importlib.import_module("captum.insights.attr_vis.server")
        return importlib.import_module("captum.insights.attr_vis.config")
    except ImportError as error:
        raise ImportError(
            f"Captum Insights is not here (captum {captum.__version__}: {error}): it was part of Captum up to 0.8.0; "
            f"expected {INSTALL} (or, on any version, the page of captum-extract-aggregate explain --html)"
        ) from None


def _layers(model: nn.Module | None, inputs: Tensor | tuple[Tensor, ...] | None) -> tuple[list[str], list[str]]:
    """Returns the layers to choose from: the default ones, and all that hold parameters of their own."""
    if model is None:
        return [], []
    own = [name for name, m in model.named_modules() if name and any(True for _ in m.parameters(recurse=False))]
    try:
        return list(default_layers(model, inputs)), own
    except ValueError:  # none: a layer is chosen from all
        return [], own


def _of_kind(name: str, model: nn.Module, inputs: Tensor | tuple[Tensor, ...] | None) -> list[str]:
    """Returns the layers that a method goes with: those with attention, or those with biases that have positions."""
    try:
        return list(method(name).suited_layers(model, inputs) or ())
    except (TypeError, ValueError):  # no inputs, or a network without any
        return []
