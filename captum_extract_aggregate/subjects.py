"""Models by name: embedded, torchvision's, timm's, a file's or a package's, with weights and another head."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from captum_extract_aggregate.data.scene_models import load_scene_model
from captum_extract_aggregate.data.scenes import SCENE_MEAN, SCENE_SIZE, SCENE_STD
from captum_extract_aggregate.messages import unknown_name

SCENES = {"scene-vgg": "vgg", "scene-resnet": "resnet", "scene-vit": "vit"}
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class Subject:
    """A model, what it takes, and what its outputs are called."""

    model: nn.Module
    size: int
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: list[str] = field(default_factory=list)


def load_subject(name: str, weights: str = "", num_classes: int = 0) -> Subject:
    """The model `name` in eval mode: `scene-vgg`, `scene-resnet`, `scene-vit`, a torchvision model, `timm:NAME`, or the
    result of `FILE.py:FUNCTION` or `MODULE:FUNCTION`. Raises ValueError with one clear line."""
    if name in SCENES:
        if weights:
            raise ValueError(f"weights is {weights!r}, but {name} brings its own; expected none")
        model = load_scene_model(SCENES[name])
        subject = Subject(model, SCENE_SIZE, SCENE_SIZE, (SCENE_MEAN,), (SCENE_STD,), [str(i) for i in range(10)])
    elif name.startswith("timm:"):
        subject = _timm_subject(name.removeprefix("timm:"), weights, num_classes)
    elif ":" in name:
        model = build_from("model", name)
        if not isinstance(model, nn.Module):
            raise ValueError(f"model is {name!r}, which returned a {type(model).__name__}; expected a torch.nn.Module")
        if weights:
            _load_weights(model, weights)
        subject = Subject(model, 224, 256, _IMAGENET_MEAN, _IMAGENET_STD)
    else:
        subject = _torchvision_subject(name, weights, num_classes)
    subject.model.eval()
    return subject


def _torchvision_subject(name: str, weights: str, num_classes: int) -> Subject:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(
            unknown_name("model", name, [*SCENES, *known], "; timm's: timm:NAME; your own: FILE.py:FUNCTION")
        )
    if not weights:
        raise ValueError(
            f"model {name!r} has no weights; expected --weights DEFAULT (torchvision downloads them), a state dict "
            "file, or 'random'"
        )
    enum = models.get_model_weights(name)
    preset: Any = enum.DEFAULT.transforms()
    classes = list(enum.DEFAULT.meta["categories"])
    options: dict[str, Any] = {}
    if num_classes:
        options["num_classes"] = num_classes
    if name in ("googlenet", "inception_v3") and weights.upper() not in enum.__members__:
        options["init_weights"] = weights == "random"
    if weights.upper() in ("DEFAULT", *enum.__members__):
        model = _download(lambda: models.get_model(name, weights=weights.upper()))
    else:
        model = models.get_model(name, weights=None, **options)
        if weights != "random":
            _load_weights(model, weights)
    return Subject(model, preset.crop_size[0], preset.resize_size[0], preset.mean, preset.std, classes)


def _timm_subject(name: str, weights: str, num_classes: int) -> Subject:
    try:
        import timm
    except ImportError:
        raise ValueError(f"model is 'timm:{name}', but timm is not installed; expected it: pip install timm") from None
    if name not in timm.list_models():
        raise ValueError(unknown_name("model", name, timm.list_models(), "; these are timm's"))
    if not weights:
        raise ValueError(
            f"model 'timm:{name}' has no weights; expected DEFAULT (timm downloads them), a state dict file, or "
            "'random'"
        )
    options: dict[str, Any] = {"num_classes": num_classes} if num_classes else {}
    build = lambda pretrained: timm.create_model(name, pretrained=pretrained, **options)  # noqa: E731
    model = _download(lambda: build(True)) if weights.upper() == "DEFAULT" else build(False)
    if weights.upper() != "DEFAULT" and weights != "random":
        _load_weights(model, weights)
    config: Any = model.default_cfg
    size = config["input_size"][-1]
    resize = round(size / (config.get("crop_pct") or 1))
    return Subject(model, size, resize, tuple(config["mean"]), tuple(config["std"]))


def _download(build: Callable[[], nn.Module]) -> nn.Module:
    try:
        return build()
    except OSError as error:
        raise ValueError(f"the weights could not be downloaded ({error}); expected a connection, or a file") from None


def build_from(what: str, spec: str, **arguments: Any) -> Any:
    """What the function in `FILE.py:FUNCTION` or `MODULE:FUNCTION` returns."""
    function = import_from(what, spec)
    try:
        return function(**arguments)
    except Exception as error:
        raise ValueError(f"{what} is {spec!r}, which failed: {error!r}") from error


def import_from(what: str, spec: str) -> Callable[..., Any]:
    """The function (or class) that `FILE.py:FUNCTION` or `MODULE:FUNCTION` names."""
    where, _, name = spec.rpartition(":")
    if where.endswith(".py"):
        path = Path(where)
        if not path.is_file():
            raise ValueError(f"{what} is {spec!r}, but there is no file {where!r}")
        module_spec = importlib.util.spec_from_file_location(path.stem, path)
        assert module_spec is not None
        assert module_spec.loader is not None
        module, execute = importlib.util.module_from_spec(module_spec), module_spec.loader.exec_module
    try:
        if where.endswith(".py"):
            execute(module)
        else:
            module = importlib.import_module(where)
    except Exception as error:
        raise ValueError(f"{what} is {spec!r}, but {where!r} cannot be imported: {error!r}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(unknown_name(what, name, [n for n in vars(module) if callable(vars(module)[n])]))
    return function


def _load_weights(model: nn.Module, path: str) -> None:
    state = _read_state_dict(path)
    for key in ("state_dict", "model", "model_state_dict"):
        state = state[key] if isinstance(state.get(key), dict) else state
    state = {key.removeprefix("module."): value for key, value in state.items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:]]
        raise ValueError(
            f"weights {path!r} do not fit {type(model).__name__}: {reasons[0] if reasons else error} (for another "
            "number of classes give --class-names)"
        ) from None


def _read_state_dict(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise ValueError(f"weights is {path!r}; expected DEFAULT, 'random', or a file, and there is no such file")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise ValueError(f"weights {path!r} are no state dict that can be read safely: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ValueError(f"weights {path!r} hold a {type(state).__name__}; expected a state dict with names")
    return state


def replace_head(model: nn.Module, path: str) -> None:
    """Puts a linear head from a file (`weight`, classes x K, and `bias`) in place of the model's classifier.

    It takes the place of the last linear layer where that has K inputs; otherwise, in a model with `features` of K
    channels and a `classifier` (SqueezeNet), of the classifier, on the spatial mean of the features.
    """
    state = _read_state_dict(path)
    if not {"weight", "bias"} <= set(state) or state["weight"].ndim != 2:
        raise ValueError(f"head {path!r} holds {sorted(state)[:5]}; expected a weight, classes x channels, and a bias")
    classes, channels = state["weight"].shape
    head = nn.Linear(channels, classes)
    head.load_state_dict({"weight": state["weight"].float(), "bias": state["bias"].float()})
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if linears and model.get_submodule(linears[-1]).in_features == channels:
        parent, _, name = linears[-1].rpartition(".")
        setattr(model.get_submodule(parent), name, head)
    elif not linears and isinstance(getattr(model, "classifier", None), nn.Module) and hasattr(model, "features"):
        model.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    else:
        raise ValueError(
            f"head {path!r} takes {channels} features, and the last linear layer of {type(model).__name__} takes "
            f"{model.get_submodule(linears[-1]).in_features if linears else 'none'}; expected a head that fits, or a "
            "model of your own (FILE.py:FUNCTION)"
        )
    model.eval()
