"""One picture, one model, one class: the grid of maps behind `captum-extract-aggregate explain`."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from captum.attr import LayerAttribution
from PIL import Image
from torch import Tensor, nn

from captum_extract_aggregate.attr import (
    LRP,
    ActivityAttribution,
    AggregatedActivity,
    ContrastiveExcitationBackprop,
    CumulativeGradCAM,
    CumulativeGradMid,
    Deconvolution,
    ExcitationBackprop,
    ExtractAggregate,
    FullGrad,
    GradCAM,
    GradCAMPlusPlus,
    GradCAMPos,
    GradMid,
    GuidedBackprop,
    LayerCombination,
    LayerGradient,
    LinearApproximation,
    NormGrad,
    RectGrad,
    RectGradMod,
    SelectiveNormGrad,
    attribute_together,
)
from captum_extract_aggregate.data.images import load_image
from captum_extract_aggregate.data.scene_models import load_scene_model
from captum_extract_aggregate.data.scenes import SCENE_MEAN, SCENE_SIZE, SCENE_STD, DigitScenes
from captum_extract_aggregate.layers import find_layer
from captum_extract_aggregate.messages import unknown_name
from captum_extract_aggregate.stages import default_layers
from captum_extract_aggregate.visualization import grid

METHODS: dict[str, Callable[..., LayerAttribution]] = {
    "normgrad": NormGrad,
    "selective-normgrad": SelectiveNormGrad,
    "linear-approximation": LinearApproximation,
    "gradient": LayerGradient,
    "gradcam": GradCAM,
    "gradcam-pos": GradCAMPos,
    "gradcam++": GradCAMPlusPlus,
    "gradmid": GradMid,
    "activity": ActivityAttribution,
    "guided": GuidedBackprop,
    "deconvolution": Deconvolution,
    "rectgrad": RectGrad,
    "rectgrad-mod": RectGradMod,
    "lrp": LRP,
    "lrp-gamma": lambda model, layers: LRP(model, layers, gamma=0.25),
    "excitation": ExcitationBackprop,
    "contrastive-excitation": ContrastiveExcitationBackprop,
    "cumulative-gradcam": CumulativeGradCAM,
    "cumulative-gradmid": CumulativeGradMid,
    "aggregated-activity": AggregatedActivity,
    "fullgrad": lambda model, layers: FullGrad(model),
    "normgrad-combined": lambda model, layers: LayerCombination(NormGrad(model, layers)),
}
DEFAULT_METHODS = "normgrad,selective-normgrad,linear-approximation,gradient"
_SCENES = {"scene-vgg": "vgg", "scene-resnet": "resnet"}
_MOST_COLUMNS = 5
_LARGEST = 4096
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Request:
    """What the command line was asked for, as text."""

    image: Path | None = None
    model: str = "scene-resnet"
    weights: str = ""
    layers: str = ""
    methods: str = DEFAULT_METHODS
    target: str = ""
    output: Path = Path("explanation.png")
    class_names: Path | None = None
    size: int = 0
    mean: str = ""
    std: str = ""
    seed: int = 0


@dataclass
class Subject:
    """A model, what it takes, and what its outputs are called."""

    model: nn.Module
    size: int
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: list[str] = field(default_factory=list)


def run(request: Request) -> str:
    """Makes the picture and returns what to tell the user. Raises ValueError or TypeError with one clear line."""
    if request.output.suffix.lower() not in (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"output is {str(request.output)!r}; expected a .png, .pdf, .svg, .jpg or .webp file")
    if not request.output.absolute().parent.is_dir():
        raise ValueError(f"output is {str(request.output)!r}, but the folder {request.output.parent} does not exist")
    methods = _split(request.methods)
    if not methods:
        raise ValueError(f"methods is {request.methods!r}; expected at least one of {', '.join(METHODS)}")
    for method in methods:
        _check_method(method)
    if request.image is None and (request.size or request.mean or request.std):
        raise ValueError("size, mean and std are for an IMAGE of your own; expected an IMAGE, or none of them")
    subject = _subject(request)
    x, boxes = _scene(request) if request.image is None else (_preprocess(load_image(request.image), subject), None)
    scores = _scores(subject.model, x)
    layers = _layers(request, subject.model, x)
    made = {method: _make_method(method, subject.model, list(layers.values())) for method in methods}
    target = _target(request.target, subject.classes, scores[0])
    maps = attribute_together(made, x, target)
    name = _class_name(subject.classes, target)
    rows = {method: _by_layer(list(layers), of_method) for method, of_method in maps.items()}
    title = f"{request.model}: class {name}, score {scores[0, target]:.2f}"
    figure = grid(_to_picture(x[0], subject), rows, title, boxes)
    figure.savefig(request.output, dpi=150)
    return _report(scores[0], subject.classes, target, layers, request.output)


def _by_layer(layers: list[str], maps: Any) -> dict[str, Tensor]:
    if isinstance(maps, Tensor):
        return {"all layers": maps[0]}
    return {layer: m[0] for layer, m in zip(layers, maps)}


def _scores(model: nn.Module, x: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            scores = model(x)
    except Exception as error:  # whatever the model's own code raises
        raise ValueError(
            f"the model does not run on a picture of shape {tuple(x.shape)} ({type(error).__name__}: {error}); "
            "expected one that does: see --size"
        ) from error
    if not isinstance(scores, Tensor) or scores.ndim != 2:
        raise ValueError(f"the model gives a {type(scores).__name__}; expected a tensor of shape batch x classes")
    return scores


def _report(scores: Tensor, classes: list[str], target: int, layers: dict[str, nn.Module], output: Path) -> str:
    top = scores.topk(min(5, len(scores)))
    lines = ["class scores (logits), highest first:"]
    lines += [
        f"  {score:8.2f}  {_class_name(classes, i)}" for score, i in zip(top.values.tolist(), top.indices.tolist())
    ]
    lines.append(f"explained: class {_class_name(classes, target)}, score {scores[target]:.2f}")
    lines.append(f"layers: {', '.join(layers)}")
    lines.append(f"maps written to {output}")
    return "\n".join(lines)


# --- Models ----------------------------------------------------------------------------------------------------------


def _subject(request: Request) -> Subject:
    names = _read_class_names(request.class_names)
    if request.model in _SCENES:
        if request.weights:
            raise ValueError(f"weights is {request.weights!r}, but {request.model} brings its own; expected none")
        model = load_scene_model(_SCENES[request.model])
        subject = Subject(model, SCENE_SIZE, SCENE_SIZE, (SCENE_MEAN,), (SCENE_STD,), [str(i) for i in range(10)])
    elif ":" in request.model:
        model = _user_model(request.model)
        if request.weights:
            _load_weights(model, request.weights)
        subject = Subject(model, 224, 256, _IMAGENET_MEAN, _IMAGENET_STD)
    else:
        subject = _torchvision_subject(request.model, request.weights, len(names))
    subject.model.eval()
    subject.classes = names or subject.classes
    if request.size:
        if not 8 <= request.size <= _LARGEST:
            raise ValueError(f"size is {request.size}; expected 8 to {_LARGEST} pixels")
        subject.resize = max(request.size, round(request.size * subject.resize / subject.size))
        subject.size = request.size
    subject.mean = _numbers("mean", request.mean) or subject.mean
    subject.std = _numbers("std", request.std) or subject.std
    if min(subject.std) <= 0:
        raise ValueError(f"std is {request.std!r}; expected positive numbers")
    return subject


def _torchvision_subject(name: str, weights: str, num_classes: int) -> Subject:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(unknown_name("model", name, [*_SCENES, *known], "; your own: FILE.py:FUNCTION"))
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


def _download(build: Callable[[], nn.Module]) -> nn.Module:
    try:
        return build()
    except OSError as error:
        raise ValueError(
            f"torchvision could not download the weights ({error}); expected a connection, or a file"
        ) from None


def _user_model(spec: str) -> nn.Module:
    where, _, name = spec.rpartition(":")
    if where.endswith(".py"):
        path = Path(where)
        if not path.is_file():
            raise ValueError(f"model is {spec!r}, but there is no file {where!r}")
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
        raise ValueError(f"model is {spec!r}, but {where!r} cannot be imported: {error!r}") from error
    if not callable(getattr(module, name, None)):
        raise ValueError(unknown_name("model", name, [n for n in vars(module) if callable(vars(module)[n])]))
    try:
        model = getattr(module, name)()
    except Exception as error:
        raise ValueError(f"model is {spec!r}, which failed: {error!r}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is {spec!r}, which returned a {type(model).__name__}; expected a torch.nn.Module")
    return model


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


def _read_class_names(path: Path | None) -> list[str]:
    if path is None:
        return []
    if not path.is_file():
        raise ValueError(f"class-names is {str(path)!r}, and there is no such file")
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise ValueError(f"class-names is {str(path)!r}, which is empty; expected one class name per line")
    return names


# --- Pictures --------------------------------------------------------------------------------------------------------


def _scene(request: Request) -> tuple[Tensor, Tensor]:
    if request.model not in _SCENES:
        raise ValueError(f"model is {request.model!r}, but there is no picture to explain; expected an IMAGE")
    if request.seed < 0:
        raise ValueError(f"seed is {request.seed}; expected 0 or more")
    image, target = DigitScenes(n=1, seed=request.seed)[0]
    return image[None], target["boxes"]


def _preprocess(picture: Image.Image, subject: Subject) -> Tensor:
    """Short side to `resize`, the centre `size` square, normalised: what image classifiers are evaluated on."""
    width, height = picture.size
    half = min(width, height) * subject.size / subject.resize / 2  # of the square's side, in the picture's pixels
    square = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
    picture = picture.resize((subject.size, subject.size), Image.Resampling.BILINEAR, box=square)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(subject.size, subject.size, 3)
    x = pixels.permute(2, 0, 1).float().div(255)
    return ((x - _column(subject.mean)) / _column(subject.std))[None]


def _to_picture(x: Tensor, subject: Subject) -> Tensor:
    return (x * _column(subject.std) + _column(subject.mean)).clamp(0, 1)


def _column(numbers: Sequence[float]) -> Tensor:
    return torch.tensor(numbers).view(-1, 1, 1)


def _numbers(what: str, text: str) -> tuple[float, ...]:
    if not text:
        return ()
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{what} is {text!r}; expected one number, or three separated by commas")
    return numbers


# --- Layers, methods, classes ----------------------------------------------------------------------------------------


def _split(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _layers(request: Request, model: nn.Module, x: Tensor) -> dict[str, nn.Module]:
    names = _split(request.layers)
    if names:
        found = {name: find_layer(name, model) for name in names}
        return {name: layer for name, layer in found.items() if layer is not None}
    layers = default_layers(model, x)
    if len(layers) <= _MOST_COLUMNS:
        return layers
    items = list(layers.items())  # of many alike blocks, some evenly spread ones
    return dict(items[round(i * (len(items) - 1) / (_MOST_COLUMNS - 1))] for i in range(_MOST_COLUMNS))


def _check_method(name: str) -> None:
    if name not in METHODS and ":" not in name:
        raise ValueError(unknown_name("method", name, METHODS, " (or EXTRACT:AGGREGATE, such as conv3x3:norm)"))


def _make_method(name: str, model: nn.Module, layers: list[nn.Module]) -> LayerAttribution:
    if name in METHODS:
        return METHODS[name](model, layers)
    extract, _, how = name.partition(":")
    return ExtractAggregate(model, layers, extract, how)


def _target(text: str, classes: list[str], scores: Tensor) -> int:
    if not text:
        return int(scores.argmax())
    names = [name.lower() for name in classes]
    if text.lower() in names:
        return names.index(text.lower())
    try:
        index = int(text)
    except ValueError:
        raise ValueError(unknown_name("target", text, classes, f" (or an index up to {len(scores) - 1})")) from None
    if not 0 <= index < len(scores):
        raise ValueError(f"target is {index}; expected 0 to {len(scores) - 1}")
    return index


def _class_name(classes: list[str], index: int) -> str:
    name = classes[index] if index < len(classes) else ""
    return name if name == str(index) else f"{name} ({index})" if name else str(index)
