"""A network gets its weights: those of a file, downloaded or random ones, and another head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError, is_file, said
from captum_extract_aggregate.data.checkpoints import classes_in, parameters_in
from captum_extract_aggregate.data.state_dicts import difference, unread


def known_weights(weights: str, names: Sequence[str]) -> str:
    """Returns the name of weights to download: spelled exactly so, else, where no file is called so, in any case; else
    ""."""
    if weights in names or is_file(weights):
        return weights if weights in names else ""
    return weights.upper() if weights.upper() in names else ""


def check_usual(name: str, weights: str, num_classes: int, usual: int) -> None:
    """Raises our error where weights to download are for other classes than are asked for."""
    if num_classes not in (0, usual):
        raise InvalidValueError(
            f"num_classes is {num_classes}, but weights {weights!r} of {name!r} are for {usual} classes; expected "
            "weights for as many (a file, with --class-names or model.num_classes), or a head"
        )


def outputs_of(model: nn.Module) -> int:
    """Returns how many outputs the last weighted layer has."""
    weights = [p for name, p in model.named_parameters() if name.endswith("weight") and p.ndim in (2, 4)]
    return len(weights[-1]) if weights else 0


def with_weights(name: str, weights: str, num_classes: int, make: Callable[..., nn.Module]) -> nn.Module:
    """Returns a model with random weights, or those of a file, for as many classes as are asked for, else as the file
    holds."""
    model = _build(name, num_classes, lambda: make(**({"num_classes": num_classes} if num_classes else {})))
    if weights == "random":
        return model
    state = _read_weights(model, weights)
    classes = classes_in(state, model)
    if classes and not num_classes and classes != outputs_of(model):
        model = _build(name, classes, lambda: make(num_classes=classes))
    _load(model, state, weights)
    return model


def _build(name: str, num_classes: int, build: Callable[[], nn.Module]) -> nn.Module:
    try:
        return build()
    except Exception as error:  # whatever a constructor refuses, and memory that is not there
        raise InvalidValueError(
            f"model {name!r} with num_classes {num_classes} cannot be built: {said(error)}"
        ) from error


def downloaded(build: Callable[[], nn.Module]) -> nn.Module:
    """Returns what is built with weights from elsewhere; our error where there is no connection."""
    try:
        return build()
    except OSError as error:
        raise InvalidValueError(
            f"the weights could not be downloaded ({error}); expected a connection, or a file"
        ) from None


def load_weights(model: nn.Module, path: str) -> None:
    """Gives a network the weights of a file; our error where they do not fit, which says what differs."""
    _load(model, _read_weights(model, path), path)


def _read_weights(model: nn.Module, path: str) -> dict[str, Any]:
    state = parameters_in(_read_state_dict("weights", path), model, path)
    _check_state_dict("weights", path, state)
    return state


def _load(model: nn.Module, state: dict[str, Any], path: str) -> None:
    try:
        model.load_state_dict(state)
    except Exception as error:  # a RuntimeError for shapes and names, anything for what is no tensor
        told = difference(state, model) or said(error)
        raise InvalidValueError(f"weights {path!r} do not fit {type(model).__name__}: {told}") from None


def _read_state_dict(what: str, path: str) -> dict[str, Any]:
    if not is_file(path):
        known = "DEFAULT, 'random', or a file" if what == "weights" else "a file"
        raise InvalidValueError(f"{what} is {path!r}; expected {known}, and there is no such file")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InvalidValueError(f"{what} {path!r} are no state dict that can be read safely: {unread(error)}") from None
    _check_state_dict(what, path, state)
    return state  # type: ignore[no-any-return]


def _check_state_dict(what: str, path: str, state: Any) -> None:
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        cure = ", or --model FILE.py:FUNCTION with a function that loads it" * isinstance(state, nn.Module)
        raise InvalidValueError(
            f"{what} {path!r} hold a {type(state).__name__}; expected a state dict with names{cure}"
        )


def replace_head(model: nn.Module, path: str) -> None:
    """Puts a linear head from a file (`weight`, classes x K, and `bias`) in place of the model's classifier.

    It takes the place of the last linear layer where that has K inputs; otherwise, in a model with `features` of K
    channels and a `classifier` (SqueezeNet), of the classifier, on the spatial mean of the features.
    """
    state = _read_state_dict("head", path)
    weight, bias = state.get("weight"), state.get("bias")
    if (
        not isinstance(weight, Tensor)
        or not isinstance(bias, Tensor)
        or weight.ndim != 2
        or bias.shape != weight.shape[:1]
    ):
        told = {
            key: tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__ for key, v in list(state.items())[:5]
        }
        raise InvalidValueError(
            f"head {path!r} holds {told}; expected a weight, classes x channels, and a bias, classes"
        )
    if not weight.is_floating_point() or not bool(weight.isfinite().all() and bias.isfinite().all()) or not len(weight):
        raise InvalidValueError(
            f"head {path!r} holds a weight of {weight.dtype} {tuple(weight.shape)}; expected finite numbers"
        )
    classes, channels = weight.shape
    head = nn.Linear(channels, classes)
    head.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if linears and model.get_submodule(linears[-1]).in_features == channels:
        parent, _, name = linears[-1].rpartition(".")
        setattr(model.get_submodule(parent), name, head)
    elif not linears and isinstance(getattr(model, "classifier", None), nn.Module) and hasattr(model, "features"):
        model.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    else:
        raise InvalidValueError(
            f"head {path!r} takes {channels} features, and the last linear layer of {type(model).__name__} takes "
            f"{model.get_submodule(linears[-1]).in_features if linears else 'none'}; expected a head that fits, or a "
            "model of your own (FILE.py:FUNCTION)"
        )
    model.eval()
