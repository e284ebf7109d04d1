"""A network and pictures as users give them, made what plans name for as long as a call lasts."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, make_folder
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate.data.image_files import pictures_below
from captum_extract_aggregate.data.models_by_name import register_model, unregister_model
from captum_extract_aggregate.evaluation.data_kinds import register_dataset, unregister_dataset
from captum_extract_aggregate.evaluation.plan import DataPlan, ModelPlan

_MODEL, _DATA = "the model given", "the pictures given"
ThingT = TypeVar("ThingT")


def check_count(n: Any) -> None:
    """Raises our error for what is no number of pictures that can be compared."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 2:
        raise InvalidValueError(f"n is {n!r}; expected an integer of at least 2: how many pictures")


def results_folder(results: str | Path | None, undo: Undo) -> Path:
    """Returns the folder of results, or one that is there until `undo`."""
    if results is None:
        temporary = tempfile.TemporaryDirectory()
        undo.callback(temporary.cleanup)
        return Path(temporary.name)
    return Path(results)


def model_plan(model: str | nn.Module, weights: str, undo: Undo) -> ModelPlan:
    """Returns what a plan says of a network, or of a model that is named."""
    if isinstance(model, str):
        return ModelPlan(model, weights)
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module, or a model's name")
    if weights:
        raise InvalidValueError(f"weights is {weights!r}, but model is a network that has its own; expected none")
    register_model(_MODEL)(lambda: copy.deepcopy(model))  # the user's own stays as it is, where it is
    undo.callback(unregister_model, _MODEL)
    return ModelPlan(_MODEL)


def data_plan(images: str | Path | Tensor | Sequence[Any] | DataPlan, n: int, folder: Path, undo: Undo) -> DataPlan:
    """Returns what a plan says of n pictures, evenly spread, of a folder, of a list, or of a plan's data."""
    if isinstance(images, DataPlan):
        return images
    if isinstance(images, (str, Path)):
        return _of_folder(Path(images), n, folder)
    if not isinstance(images, (Tensor, list, tuple)) or not len(images):
        raise InvalidTypeError(
            f"images is a {type(images).__name__}; expected a folder, pictures, tensors or a DataPlan"
        )
    if not all(isinstance(image, (Tensor, Image.Image)) for image in images):
        raise InvalidTypeError("images holds more than pictures; expected Pillow's, or tensors C x H x W")
    register_data(_DATA, [(image, None) for image in spread(list(images), n)], undo)
    return DataPlan(_DATA)


def _of_folder(root: Path, n: int, folder: Path) -> DataPlan:
    """Returns the pictures of a folder as a list, which lies beside the results."""
    if not root.is_dir():
        raise InvalidValueError(f"images is {str(root)!r}, and there is no such folder")
    found = pictures_below(root, folder)
    make_folder("results", folder)
    listed = folder / "pictures.txt"
    listed.write_text("".join(f"{p.relative_to(root)}\n" for p in spread(found, n)), encoding="utf-8")
    return DataPlan("list", root=str(root), file=str(listed))


def spread(things: Sequence[ThingT], n: int) -> list[ThingT]:
    """Returns n things, or all, evenly spread."""
    return list(things) if len(things) <= n else [things[i * len(things) // n] for i in range(n)]


def register_data(name: str, data: Any, undo: Undo) -> None:
    """Names a data set for plans, until `undo`."""
    register_dataset(name)(lambda: data)
    undo.callback(unregister_dataset, name)
