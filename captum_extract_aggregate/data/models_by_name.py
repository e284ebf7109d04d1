"""Models by name: embedded, torchvision's, timm's, a file's or a package's, with weights and another head."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError, is_file, said, unknown_name
from captum_extract_aggregate._common.imported import build_from
from captum_extract_aggregate._common.registry import Registry
from captum_extract_aggregate.data.checkpoints import classes_in, parameters_in
from captum_extract_aggregate.data.hugging_face import Processor, is_model_folder, load_model
from captum_extract_aggregate.data.scene_models import load_scene_model
from captum_extract_aggregate.data.scenes import SCENE_MEAN, SCENE_SIZE, SCENE_STD
from captum_extract_aggregate.data.state_dicts import difference, unread

_MOST_CLASSES = 1_000_000
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class NamedModel:
    """Holds a model, what it takes, and what its outputs are called.

    `is_square`: it takes whole pictures, brought to a square. `processor`: makes its input of a picture, where that is
    not done as size, resize, mean and std say.
    """

    model: nn.Module
    size: int
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: list[str] = field(default_factory=list)
    is_square: bool = False
    processor: Callable[[Image.Image], Tensor] | None = None


@dataclass(frozen=True)
class KnownModel:
    """Holds a registered model: the function that builds it, what it takes, and whether that is scenes of digits."""

    build: Callable[[], nn.Module]
    size: int = 224
    resize: int = 256
    mean: tuple[float, ...] = _IMAGENET_MEAN
    std: tuple[float, ...] = _IMAGENET_STD
    classes: tuple[str, ...] = ()
    of_scenes: bool = False

    def subject(self, name: str) -> NamedModel:
        """Returns the model, built; our error where what was registered builds none."""
        try:
            model = self.build()
        except (Exception, SystemExit) as error:
            raise InvalidValueError(f"model is {name!r}, whose function failed: {error!r}") from error
        _check_module(name, model)
        return NamedModel(model, self.size, self.resize, self.mean, self.std, list(self.classes))


MODELS: Registry[KnownModel] = Registry("model", "unregister_model")
BuildT = TypeVar("BuildT", bound=Callable[[], nn.Module])


def register_model(
    name: str,
    *,
    size: int = 224,
    resize: int | None = None,
    mean: Sequence[float] = _IMAGENET_MEAN,
    std: Sequence[float] = _IMAGENET_STD,
    classes: Sequence[str] = (),
    overwrite: bool = False,
) -> Callable[[BuildT], BuildT]:
    """Makes a model available by name, for `--model` and plans, in the whole process.

    The function takes nothing and returns a `torch.nn.Module`.

    Args:
        name: as plans and `--model` will name it.
        size: side of its input in pixels.
        resize: the short side of a picture, from whose middle the input is cut; None: `size`, in the usual proportion
            of 256 to 224.
        mean, std: normalisation of values in [0, 1], a number for each channel or one for all.
        classes: what its outputs are called.
        overwrite: whether a name that is taken is exchanged.

    Raises:
        ValueError: for a name that is taken, unless `overwrite` is True.
        TypeError: for a name that is no string.

    Example:
        >>> from torch import nn
        >>> from captum_extract_aggregate.registry import list_models, register_model, unregister_model
        >>> @register_model("tiny", size=32)
        ... def tiny():
        ...     return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> list_models()
        ['scene-vgg', 'scene-resnet', 'scene-vit', 'tiny']
        >>> unregister_model("tiny")
    """
    MODELS.check_free(name, overwrite)
    short = round(size * 256 / 224) if resize is None else resize

    def register(build: BuildT) -> BuildT:
        known = KnownModel(build, size, short, tuple(mean), tuple(std), tuple(classes))
        MODELS.register(name, known, overwrite)
        return build

    return register


def unregister_model(name: str) -> None:
    """Forgets a model, or brings back this package's own, if it was overwritten.

    Raises:
        ValueError: for a name that is unknown.
    """
    MODELS.unregister(name)


def list_models() -> list[str]:
    """Returns the names of all registered models; torchvision's and timm's are known beside them.

    Example:
        >>> from captum_extract_aggregate.registry import list_models
        >>> list_models()
        ['scene-vgg', 'scene-resnet', 'scene-vit']
    """
    return MODELS.names()


def takes_scenes(name: str) -> bool:
    """Tells whether a model is one of the embedded ones, for scenes of handwritten digits."""
    return name in MODELS and MODELS[name].of_scenes


for _kind in ("vgg", "resnet", "vit"):
    _scene_classes = tuple(str(digit) for digit in range(10))
    _scene = KnownModel(
        functools.partial(load_scene_model, _kind),
        SCENE_SIZE,
        SCENE_SIZE,
        (SCENE_MEAN,),
        (SCENE_STD,),
        _scene_classes,
        of_scenes=True,
    )
    MODELS.register(f"scene-{_kind}", _scene)
MODELS.seal()


def load_subject(name: str, weights: str = "", num_classes: int = 0) -> NamedModel:
    """Returns the model `name` in eval mode.

    It is a registered one (`scene-vgg`, `scene-resnet`, ...), a torchvision model, `timm:NAME`, a local folder of
    Hugging Face's transformers, or the result of `FILE.py:FUNCTION` or `MODULE:FUNCTION`. Raises ValueError with one
    clear line.
    """
    if not 0 <= num_classes <= _MOST_CLASSES:
        raise InvalidValueError(f"num_classes is {num_classes}; expected 0 (the usual) to {_MOST_CLASSES:,}")
    if name in MODELS:
        if weights and MODELS[name].of_scenes:
            raise InvalidValueError(f"weights is {weights!r}, but {name} brings its own; expected none")
        subject = MODELS[name].subject(name)
        if weights:
            _load_weights(subject.model, weights)
    elif name.startswith("timm:"):
        subject = _timm_subject(name.removeprefix("timm:"), weights, num_classes)
    elif is_model_folder(name):
        subject = _folder_subject(name, weights, num_classes)
    elif ":" in name:
        model = build_from("model", name)
        _check_module(name, model)
        if weights:
            _load_weights(model, weights)
        subject = NamedModel(model, 224, 256, _IMAGENET_MEAN, _IMAGENET_STD)
    else:
        subject = _torchvision_subject(name, weights, num_classes)
    subject.model.eval()
    return subject


def known_of(model: nn.Module) -> NamedModel:
    """Returns a network with what its timm or Hugging Face configuration says of its input and classes; where there is
    none, with ImageNet's usual input and, for 1,000 outputs of a torchvision or timm network, ImageNet's classes."""
    timms, config = getattr(model, "pretrained_cfg", None), getattr(model, "config", None)
    names = getattr(config, "id2label", None)
    if isinstance(timms, dict) and timms.get("input_size"):
        subject = _as_configured(model, timms)
    elif names and is_model_folder(str(getattr(config, "name_or_path", ""))):
        subject = _as_processed(model, Processor(str(config.name_or_path)), [])  # type: ignore[union-attr]
    else:
        subject = NamedModel(model, 224, 256, _IMAGENET_MEAN, _IMAGENET_STD)
    if isinstance(names, dict) and not all(name == f"LABEL_{i}" for i, name in names.items()):
        subject.classes = [str(names[i]) for i in sorted(names)]
    elif type(model).__module__.startswith(("torchvision.models", "timm.")) and _outputs_of(model) == 1000:
        subject.classes = imagenet_names()
    return subject


def imagenet_names() -> list[str]:
    """Returns the names of ImageNet's 1,000 classes, as torchvision lists them."""
    from torchvision.models import ResNet50_Weights

    return list(ResNet50_Weights.DEFAULT.meta["categories"])


def _as_configured(model: nn.Module, config: Mapping[str, Any]) -> NamedModel:
    """Returns a model of timm's with the input that its configuration tells."""
    size = config["input_size"][-1]
    resize = round(size / (config.get("crop_pct") or 1))
    return NamedModel(model, size, resize, tuple(config["mean"]), tuple(config["std"]))


def _outputs_of(model: nn.Module) -> int:
    """Returns how many outputs the last weighted layer has."""
    weights = [p for name, p in model.named_parameters() if name.endswith("weight") and p.ndim in (2, 4)]
    return len(weights[-1]) if weights else 0


def _check_module(name: str, model: object) -> None:
    if not isinstance(model, nn.Module):
        raise InvalidValueError(
            f"model is {name!r}, which returned a {type(model).__name__}; expected a torch.nn.Module"
        )


def _torchvision_subject(name: str, weights: str, num_classes: int) -> NamedModel:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise InvalidValueError(
            unknown_name(
                "model",
                name,
                [*MODELS, *known],
                "; timm's: timm:NAME; a local folder of Hugging Face's; your own: FILE.py:FUNCTION",
            )
        )
    if not weights:
        raise InvalidValueError(
            f"model {name!r} has no weights; expected --weights DEFAULT (torchvision downloads them), a state dict "
            "file, or 'random'"
        )
    enum = models.get_model_weights(name)
    preset: Any = enum.DEFAULT.transforms()
    classes = list(enum.DEFAULT.meta["categories"])
    options: dict[str, Any] = {}
    known_weights = _known_weights(weights, ("DEFAULT", *enum.__members__))
    if name in ("googlenet", "inception_v3") and not known_weights:
        options["init_weights"] = weights == "random"
    if known_weights:
        _check_usual(name, weights, num_classes, len(classes))
        model = _download(lambda: models.get_model(name, weights=known_weights))
    else:
        make = functools.partial(models.get_model, name, weights=None, **options)
        model = _with_weights(name, weights, num_classes, make)
    if _outputs_of(model) not in (0, len(classes)):
        classes = []  # which are the usual weights'
    return NamedModel(model, preset.crop_size[0], preset.resize_size[0], preset.mean, preset.std, classes)


def _timm_subject(name: str, weights: str, num_classes: int) -> NamedModel:
    try:
        import timm
    except ImportError:
        raise InvalidValueError(
            f"model is 'timm:{name}', but timm is not installed; expected it: pip install timm"
        ) from None
    if name not in timm.list_models():
        raise InvalidValueError(unknown_name("model", name, timm.list_models(), "; these are timm's"))
    if not weights:
        raise InvalidValueError(
            f"model 'timm:{name}' has no weights; expected DEFAULT (timm downloads them), a state dict file, or "
            "'random'"
        )
    if _known_weights(weights, ("DEFAULT",)):
        model = _download(lambda: timm.create_model(name, pretrained=True))
        _check_usual(f"timm:{name}", weights, num_classes, int(model.num_classes))  # type: ignore[arg-type]
    else:
        model = _with_weights(name, weights, num_classes, functools.partial(timm.create_model, name, pretrained=False))
    return _as_configured(model, model.default_cfg)  # type: ignore[arg-type]


def _folder_subject(folder: str, weights: str, num_classes: int) -> NamedModel:
    processor = Processor(folder)
    random = weights == "random" and not is_file(weights)
    model, classes = load_model(folder, random or is_file(weights))
    if is_file(weights):
        _load_weights(model, weights)
    elif not random and weights.upper() not in ("", "DEFAULT"):
        raise InvalidValueError(f"weights is {weights!r}; expected none (the folder's), a state dict file, or 'random'")
    usual = int(model.config.num_labels)  # type: ignore[union-attr, arg-type]
    if num_classes not in (0, usual):
        raise InvalidValueError(
            f"num_classes is {num_classes}, but {folder!r} is for {usual} classes; expected {usual}"
        )
    return _as_processed(model, processor, classes)


def _as_processed(model: nn.Module, processor: Processor, classes: list[str]) -> NamedModel:
    """Returns a model with the input that its folder's processor makes."""
    size, resize, mean, std = processor.size, processor.resize, processor.mean, processor.std
    return NamedModel(model, size, resize, mean, std, classes, processor.is_square, processor)


def _known_weights(weights: str, names: Sequence[str]) -> str:
    """Returns the name of weights to download: spelled exactly so, else, where no file is called so, in any case; else
    ""."""
    if weights in names or is_file(weights):
        return weights if weights in names else ""
    return weights.upper() if weights.upper() in names else ""


def _check_usual(name: str, weights: str, num_classes: int, usual: int) -> None:
    if num_classes not in (0, usual):
        raise InvalidValueError(
            f"num_classes is {num_classes}, but weights {weights!r} of {name!r} are for {usual} classes; expected "
            "weights for as many (a file, with --class-names or model.num_classes), or a head"
        )


def _with_weights(name: str, weights: str, num_classes: int, make: Callable[..., nn.Module]) -> nn.Module:
    """Returns a model with random weights, or those of a file, for as many classes as are asked for, else as the file
    holds."""
    model = _build(name, num_classes, lambda: make(**({"num_classes": num_classes} if num_classes else {})))
    if weights == "random":
        return model
    state = _read_weights(model, weights)
    classes = classes_in(state, model)
    if classes and not num_classes and classes != _outputs_of(model):
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


def _download(build: Callable[[], nn.Module]) -> nn.Module:
    try:
        return build()
    except OSError as error:
        raise InvalidValueError(
            f"the weights could not be downloaded ({error}); expected a connection, or a file"
        ) from None


def _load_weights(model: nn.Module, path: str) -> None:
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
