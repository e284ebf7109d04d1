"""Image classifiers from a local folder of Hugging Face's transformers, with the pictures as they take them."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError, said


def is_model_folder(name: str) -> bool:
    """Tells whether a name is that of a folder with a model's `config.json`."""
    try:
        return (Path(name) / "config.json").is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def load_model(folder: str, random: bool) -> tuple[nn.Module, list[str]]:
    """Returns the model that a folder's `config.json` names, with the folder's weights or new ones, and its classes.

    Nothing is downloaded. Raises ValueError where transformers is not there, and for a folder that does not hold all of
    the model.
    """
    transformers = _transformers(folder)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        name = (config.architectures or ["none"])[0]
        kind = getattr(transformers, name, None)
        if kind is None:
            raise InvalidValueError(f"model is {folder!r}, whose config.json names {name} as its architecture")
        if random:
            model, missing = kind(config), []
        else:
            model, info = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)
            missing = sorted(info["missing_keys"])
    except InvalidValueError:
        raise
    except Exception as error:  # whatever transformers raises
        raise InvalidValueError(f"model is {folder!r}, a folder that cannot be loaded: {said(error)}") from error
    if missing:
        raise InvalidValueError(
            f"model is {folder!r}, whose weights lack {len(missing)} of the model's, {missing[0]!r} first; expected all"
        )
    classes = [str(config.id2label[i]) for i in sorted(config.id2label)]
    return model, [] if all(name == f"LABEL_{i}" for i, name in enumerate(classes)) else classes


class Processor:
    """What a folder's `preprocessor_config.json` says that the model takes; called with a picture: the input.

    Attributes:
        size, resize: side of the input, and short side of the picture from whose middle it is cut.
        is_square: whether the whole picture is brought to a square instead.
        mean, std: of the normalisation of values in [0, 1].
    """

    def __init__(self, folder: str) -> None:
        try:
            self._process = _transformers(folder).AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            raise InvalidValueError(
                f"model is {folder!r}, whose preprocessor_config.json cannot be read: {said(error)}"
            ) from error
        told: dict[str, Any] = self._process.to_dict()
        if told.get("do_flip_channel_order"):
            raise InvalidValueError(
                f"model is {folder!r}, which takes pictures with flipped channels (BGR); expected RGB: a model that "
                "flips them itself (FILE.py:FUNCTION)"
            )
        x = self(Image.new("RGB", (64, 48)))
        if x.ndim != 4 or x.shape[2] != x.shape[3]:
            raise InvalidValueError(f"model is {folder!r}, which takes inputs of {tuple(x.shape)}; expected squares")
        self.size = int(x.shape[2])
        self.resize, self.is_square = _short_side(told, self.size)
        unit = 255 * float(told["rescale_factor"]) if told.get("do_rescale", True) else 255.0
        normalizes = told.get("do_normalize", False)
        self.mean = tuple(v / unit for v in _numbers(told["image_mean"])) if normalizes else (0.0,)
        self.std = tuple(v / unit for v in _numbers(told["image_std"])) if normalizes else (1 / unit,)

    def __call__(self, picture: Image.Image) -> Tensor:
        return self._process(images=picture, return_tensors="pt")["pixel_values"]  # type: ignore[no-any-return]


def _transformers(folder: str) -> Any:
    transformers: Any = importlib.import_module("transformers") if importlib.util.find_spec("transformers") else None
    if transformers is None or not transformers.is_torch_available():
        raise InvalidValueError(
            f"model is {folder!r}, a folder of Hugging Face's, but there is no transformers that works with this "
            "PyTorch; expected it: pip install transformers"
        )
    return transformers


def _short_side(told: Mapping[str, Any], size: int) -> tuple[int, bool]:
    """Returns the short side to which a picture is brought before its middle is cut out, and whether none is cut."""
    side = told.get("size") or {}
    short = side.get("shortest_edge")
    if short is None:
        side, crops = (side.get("height"), side.get("width")), told.get("do_center_crop", False)
        return (side[0], False) if crops and side[0] == side[1] and side[0] is not None else (size, True)
    if told.get("crop_pct"):  # ConvNeXt's way: the side is the crop's, and small ones are cut from larger pictures
        return (math.floor(short / told["crop_pct"]), False) if short < 384 else (size, True)
    return short, False


def _numbers(given: float | Sequence[float]) -> tuple[float, ...]:
    return (float(given),) if isinstance(given, (int, float)) else tuple(map(float, given))
