"""`explain(model, "dog.jpg")`: maps of one picture in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from captum.attr import Attribution
from PIL import Image
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, said
from captum_extract_aggregate._engine.default_layers import default_layers
from captum_extract_aggregate._engine.layers import find_layer
from captum_extract_aggregate.attr.by_name import METHODS, evenly_spread, find_method, make_method
from captum_extract_aggregate.data.models_by_name import NamedModel, takes_scenes
from captum_extract_aggregate.data.scenes import DigitScenes
from captum_extract_aggregate.explanation.explanation import Explanation
from captum_extract_aggregate.explanation.pictures import Picture, Seen, is_input, see
from captum_extract_aggregate.explanation.subject import (
    Class,
    Names,
    as_taken,
    check_names,
    class_index,
    find_subject,
    scores_of,
    subject_of,
)

DEFAULT_METHODS = ("gradcam", "normgrad", "linear-approximation")
_MOST_COLUMNS = 5
# What is told of a layer alone: behind the last default layer nothing of the class may be left of some methods, and
# GradCAM, which averages gradients over positions, is made for that layer.
_AT_THE_LAST = ("gradcam",)


def explain(
    model: nn.Module | str,
    image: Picture | None = None,
    target: Class | None = None,
    *,
    methods: str | Sequence[str] = DEFAULT_METHODS,
    layers: str | Sequence[str] = (),
    weights: str = "",
    class_names: Sequence[str] | str | Path | None = None,
    preprocess: Callable[[Image.Image], Tensor] | None = None,
    size: int = 0,
    mean: str | float | Sequence[float] = "",
    std: str | float | Sequence[float] = "",
    seed: int = 0,
) -> Explanation:
    """Explains one class of one picture by several methods at several layers, in one pass.

    Args:
        model: a network in eval mode, or a name: `scene-vgg`, `scene-resnet`, `scene-vit`, a registered model, a
            torchvision model, `timm:NAME`, a local folder of Hugging Face's, or `FILE.py:FUNCTION`.
        image: a path, a PIL image, an array `H x W x 3` (integers of 8 or 16 bits, or floats in [0, 1]), a `uint8`
            tensor `3 x H x W`, or the model's own input, `1 x C x H x W` of floats. Pictures are turned upright by
            their EXIF tag, and come in the model's precision and on its device if it takes no other. None: a scene of
            handwritten digits, for the models of scenes.
        target: a class by its name or index (an integer, also in a tensor of one entry); None: the one with the
            highest score.
        methods: names, or one text with commas: any of `captum_extract_aggregate.registry.list_methods()`, a class's
            name (`GradCAM`, Captum's `LayerGradCam`), `EXTRACT:AGGREGATE`, `FILE.py:CLASS`.
        layers: names, or one text with commas. Left out: the default layers; GradCAM then explains the last one, which
            it is made for, and methods that do not depend on the class there all but the last.
        weights: for a named model: `DEFAULT`, a state dict file, or `random`.
        class_names: names in the order of the outputs, or a file with one per line. None: those of the model, and
            ImageNet's for a model of torchvision or timm with 1,000 outputs.
        preprocess: makes the model's input of a PIL image, such as `weights.transforms()`. None: as the named model,
            its timm configuration or its Hugging Face folder says, else as ImageNet's classifiers are evaluated: short
            side 256, the middle 224 x 224, normalised with ImageNet's mean and deviation.
        size, mean, std: change the side of the input and its normalisation.
        seed: which scene.

    Returns:
        An `Explanation`: `.maps`, `.scores`, `.figure()`, `.show()`, `.save("maps.png")`, `.save("maps.html")`,
        `.trust()`; a notebook shows it.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> found = cea.explain("scene-resnet", target=3)
        >>> list(found.maps), list(found.maps["linear-approximation"])
        (['gradcam', 'normgrad', 'linear-approximation'], ['layer1', 'layer2', 'layer3', 'layer4'])
        >>> found.maps["gradcam"]["layer4"].shape
        torch.Size([1, 12, 12])
    """
    if image is None and (size or mean or std):
        raise InvalidValueError("size, mean and std are for an IMAGE of your own; expected an IMAGE, or none of them")
    _methods(methods)  # a wrong name is told before a model is built
    said_of_it = (weights, class_names, size, mean, std)
    subject = find_subject(model, *said_of_it) if isinstance(model, str) else subject_of(model, *said_of_it)
    name = model if isinstance(model, str) else type(model).__name__
    more = {"methods": methods, "layers": layers, "class_names": class_names, "preprocess": preprocess, "seed": seed}
    return explained(subject, name, image, target, **more)  # type: ignore[arg-type]


def explained(
    subject: NamedModel,
    name: str,
    image: Picture | None,
    target: Class | None,
    *,
    methods: str | Sequence[str] = DEFAULT_METHODS,
    layers: str | Sequence[str] = (),
    class_names: Names = None,
    preprocess: Callable[[Image.Image], Tensor] | None = None,
    seed: int = 0,
) -> Explanation:
    """Returns what `explain` does, of a model that is built already, which `name` calls."""
    chosen = _methods(methods)
    seen, boxes = _scene(name, seed) if image is None else (see(image, subject, preprocess), None)
    x, scores = (seen.x, scores_of(subject.model, seen.x)) if is_input(image) else as_taken(subject.model, seen.x)
    check_names(class_names, subject.classes, scores.shape[1])
    at = _layers(layers, subject.model, x)
    own = {m: list(at.values()) if layers else layers_of(m, subject.model, x, at) for m in chosen}
    made = {m: method_on(m, subject.model, own[m]) for m in chosen}
    of_class = class_index(target, subject.classes, scores[0])
    classes = list(subject.classes)
    return Explanation(subject.model, name, x, seen.picture, scores[0], of_class, classes, list(at), made, boxes)


def _methods(given: str | Sequence[str]) -> list[str]:
    names = _split(given)
    if not names:
        raise InvalidValueError(f"methods is {given!r}; expected at least one of {', '.join(METHODS)}")
    for name in names:
        find_method(name)
    return names


def _split(given: str | Sequence[str]) -> list[str]:
    parts = given.split(",") if isinstance(given, str) else given
    if not all(isinstance(part, str) for part in parts):
        raise InvalidTypeError(f"{given!r} holds something else than names; expected strings")
    return list(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _layers(given: str | Sequence[str], model: nn.Module, x: Tensor) -> dict[str, nn.Module]:
    names = _split(given)
    if names:
        found = {name: find_layer(name, model) for name in names}
        return {name: layer for name, layer in found.items() if layer is not None}
    return evenly_spread(default_layers(model, x), _MOST_COLUMNS)  # of many alike blocks


def layers_of(method: str, model: nn.Module, x: Tensor, layers: dict[str, nn.Module]) -> list[nn.Module]:
    """Returns the layers at which a method is meaningful, where the user named none: of the kind that it goes with."""
    about = find_method(method)
    suited = about.suited_layers(model, x, _MOST_COLUMNS)
    if suited is not None:
        return list(suited.values())
    modules = list(layers.values())
    if about.joins_layers or len(modules) == 1:
        return modules
    if METHODS.find(method) in _AT_THE_LAST:
        return modules[-1:]
    return modules[:-1] if about.before_the_last else modules


def method_on(method: str, model: nn.Module, layers: Sequence[nn.Module | None], **arguments: Any) -> Attribution:
    """Returns a method on layers of a model; our error, which names it, where it does not take them."""
    try:
        return make_method(method, model, layers, **arguments)
    except (ValueError, TypeError) as error:
        raise InvalidValueError(f"method {method!r}: {error}") from None
    except Exception as error:  # whatever Captum's own methods refuse a model with
        raise InvalidValueError(f"method {method!r} does not take this model: {said(error)}") from error


def _scene(model: str, seed: int) -> tuple[Seen, Tensor]:
    if not takes_scenes(model):
        raise InvalidValueError(f"model is {model!r}, but there is no picture to explain; expected an IMAGE")
    if not 0 <= seed < 2**62:
        raise InvalidValueError(f"seed is {seed}; expected 0 or more, below 2**62")
    image, about = DigitScenes(n=1, seed=seed)[0]
    return Seen(image[None], DigitScenes.to_rgb(image)), about["boxes"]
