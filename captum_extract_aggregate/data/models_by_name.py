"""Models by name: embedded, torchvision's, timm's, a file's or a package's, with weights and another head."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from PIL import Image
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError, is_file, unknown_name
from captum_extract_aggregate._common.imported import build_from
from captum_extract_aggregate._common.own_code import place_of
from captum_extract_aggregate._common.registry import Registry
from captum_extract_aggregate.data.hugging_face import Processor, is_model_folder, load_model
from captum_extract_aggregate.data.network_weights import (
    check_usual,
    downloaded,
    known_weights,
    load_weights,
    outputs_of,
    with_weights,
)
from captum_extract_aggregate.data.scene_models import load_scene_model
from captum_extract_aggregate.data.scenes import SCENE_MEAN, SCENE_SIZE, SCENE_STD

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
            told = f"{error!r}{place_of(error)}"
            raise InvalidValueError(f"model is {name!r}, whose function failed: {told}") from error
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
            load_weights(subject.model, weights)
    elif name.startswith("timm:"):
        subject = _timm_subject(name.removeprefix("timm:"), weights, num_classes)
    elif is_model_folder(name):
        subject = _folder_subject(name, weights, num_classes)
    elif ":" in name:
        model = build_from("model", name)
        _check_module(name, model)
        if weights:
            load_weights(model, weights)
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
    elif type(model).__module__.startswith(("torchvision.models", "timm.")) and outputs_of(model) == 1000:
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
    ready = known_weights(weights, ("DEFAULT", *enum.__members__))
    if name in ("googlenet", "inception_v3") and not ready:
        options["init_weights"] = weights == "random"
    if ready:
        check_usual(name, weights, num_classes, len(classes))
        model = downloaded(lambda: models.get_model(name, weights=ready))
    else:
        make = functools.partial(models.get_model, name, weights=None, **options)
        model = with_weights(name, weights, num_classes, make)
    if outputs_of(model) not in (0, len(classes)):
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
    if known_weights(weights, ("DEFAULT",)):
        model = downloaded(lambda: timm.create_model(name, pretrained=True))
        check_usual(f"timm:{name}", weights, num_classes, int(model.num_classes))  # type: ignore[arg-type]
    else:
        model = with_weights(name, weights, num_classes, functools.partial(timm.create_model, name, pretrained=False))
    return _as_configured(model, model.default_cfg)  # type: ignore[arg-type]


def _folder_subject(folder: str, weights: str, num_classes: int) -> NamedModel:
    processor = Processor(folder)
    random = weights == "random" and not is_file(weights)
    model, classes = load_model(folder, random or is_file(weights))
    if is_file(weights):
        load_weights(model, weights)
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
