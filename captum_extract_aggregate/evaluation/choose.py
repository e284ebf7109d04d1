"""For a network and pictures without annotations: which method at which layer can be trusted?"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, make_folder
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.default_layers import default_layers
from captum_extract_aggregate._engine.one_output import has_one_output
from captum_extract_aggregate.attr.by_name import evenly_spread
from captum_extract_aggregate.data.grid_images import GridImages
from captum_extract_aggregate.data.image_files import pictures_below
from captum_extract_aggregate.data.models_by_name import NamedModel, load_subject, register_model, unregister_model
from captum_extract_aggregate.evaluation.checks import check_runs
from captum_extract_aggregate.evaluation.choosing import Choice, decide
from captum_extract_aggregate.evaluation.data_kinds import register_dataset, unregister_dataset
from captum_extract_aggregate.evaluation.datasets import open_images
from captum_extract_aggregate.evaluation.explained import CENTRE, MethodAtLayer
from captum_extract_aggregate.evaluation.grouping import Array, groups
from captum_extract_aggregate.evaluation.images import Images, UnreadableError
from captum_extract_aggregate.evaluation.plan import DataPlan, MeasurePlan, MethodPlan, ModelPlan, Plan, RunPlan
from captum_extract_aggregate.evaluation.prepare import first_readable
from captum_extract_aggregate.evaluation.runner import run
from captum_extract_aggregate.evaluation.store import Results

METHODS = ("gradcam", "normgrad", "selective-normgrad", "linear-approximation")
_MOST_LAYERS = 3
_STEPS = 10  # in which all pixels are removed
_SURE = 0.5  # the probability from which a picture is one of a grid's
_CELLS = 2  # a side
_GIVEN_MODEL, _GIVEN_DATA, _GRIDS = "the model given", "the pictures given", "grids of the pictures"


def choose(
    model: str | nn.Module,
    images: str | Path | Tensor | Sequence[Any] | DataPlan,
    *,
    methods: Sequence[str] = METHODS,
    layers: Sequence[str] = (),
    n: int = 32,
    results: str | Path | None = None,
    weights: str = "",
    seed: int = 0,
    batch_size: int = 8,
    device: str = "cpu",
    threads: int = 0,
    show_progress: bool = True,
) -> Choice:
    """Returns which method at which layer can be trusted with a network, by questions that need no annotations.

    Does the map depend on the class (`class_sensitivity`), and on what was learned (`parameter_randomization` of all
    layers, `init="matched"`)? Does the order of its pixels say more of the decision than that of other pictures' maps
    (`removal_contrast`, in ten steps)? Of four pictures in a grid, does it find the one whose class is explained
    (`grid_pointing_game`)? Cells of the grids are the pictures at half their size, of which the network is sure, and
    their class is what it says of them. Every answer is tested against its limit (Wilcoxon, Holm over all answers);
    `Choice` says what follows.

    Killed and started again it goes on where it stopped, as `run` does.

    Args:
        model: a network, or its name, as plans have it.
        images: a folder with pictures, also in folders inside; pictures (Pillow's) or tensors `C x H x W` as the
            network wants them; or a plan's data.
        methods: their names, as in plans.
        layers: their names; empty: three of the default layers.
        n: how many pictures, evenly spread over those that there are.
        results: a folder for the numbers and the choice; None: nothing is kept but what `Choice` holds.
        weights: of a model that is named, as in plans.
        seed: of whatever is drawn. batch_size: pictures at a time. device: as in plans.
        threads: of the CPU; 0: as many as PyTorch takes.
        show_progress: show bars.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.evaluation import choose
        >>> scenes = [image for image, _ in cea.DigitScenes(n=4)]
        >>> model = cea.load_scene_model("resnet")
        >>> choice = choose(model, scenes, methods=["gradcam"], layers=["layer2", "layer3"], show_progress=False)
        >>> len(choice.candidates), choice.images
        (2, 4)
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 2:
        raise InvalidValueError(f"n is {n!r}; expected an integer of at least 2: how many pictures")
    if isinstance(methods, str) or not methods:
        raise InvalidTypeError(f"methods is {methods!r}; expected a list of names, such as ['gradcam', 'normgrad']")
    with Undo() as undo, undo:
        folder = _folder(results, undo)
        model_plan = _model_plan(model, weights, undo)
        data = _data_plan(images, n, folder, undo)
        subject = load_subject(model_plan.name, model_plan.weights, model_plan.num_classes)
        found = open_images(data, subject)
        if found.count < 2:
            raise InvalidValueError(f"images holds {found.count} picture; expected at least 2")
        how = RunPlan(min(batch_size, found.count), seed, device, threads or torch.get_num_threads(), "skip")
        plan = _plan(model_plan, data, how, tuple(methods), tuple(layers), subject, found)
        values = _values(run(plan, folder / "pictures", show_progress))
        grids = _grids(subject, found, how)
        left_out = [grids] if isinstance(grids, str) else []
        if isinstance(grids, GridImages):
            _register_data(_GRIDS, grids, undo)
            values |= _values(run(_grid_plan(plan), folder / "grids", show_progress))
        choice = decide(values, found.count, left_out)
        if results is not None:
            choice.write(folder)
    return choice


def _folder(results: str | Path | None, undo: Undo) -> Path:
    if results is None:
        temporary = tempfile.TemporaryDirectory()
        undo.callback(temporary.cleanup)
        return Path(temporary.name)
    return Path(results)


# --- What is asked ----------------------------------------------------------------------------------------------------


def _model_plan(model: Any, weights: str, undo: Undo) -> ModelPlan:
    if isinstance(model, str):
        return ModelPlan(model, weights)
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module, or a model's name")
    if weights:
        raise InvalidValueError(f"weights is {weights!r}, but model is a network that has its own; expected none")
    register_model(_GIVEN_MODEL)(lambda: copy.deepcopy(model))  # the user's own stays as it is, where it is
    undo.callback(unregister_model, _GIVEN_MODEL)
    return ModelPlan(_GIVEN_MODEL)


def _data_plan(images: Any, n: int, folder: Path, undo: Undo) -> DataPlan:
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
    _register_data(_GIVEN_DATA, [(image, None) for image in _spread(list(images), n)], undo)
    return DataPlan(_GIVEN_DATA)


def _of_folder(root: Path, n: int, folder: Path) -> DataPlan:
    """Returns the pictures of a folder as a list, which lies beside the results."""
    if not root.is_dir():
        raise InvalidValueError(f"images is {str(root)!r}, and there is no such folder")
    found = pictures_below(root, folder)
    make_folder("results", folder)
    listed = folder / "pictures.txt"
    listed.write_text("".join(f"{p.relative_to(root)}\n" for p in _spread(found, n)), encoding="utf-8")
    return DataPlan("list", root=str(root), file=str(listed))


def _spread(things: list[Any], n: int) -> list[Any]:
    """Returns n things, or all, evenly spread."""
    return things if len(things) <= n else [things[i * len(things) // n] for i in range(n)]


def _register_data(name: str, data: Any, undo: Undo) -> None:
    register_dataset(name)(lambda: data)
    undo.callback(unregister_dataset, name)


def _plan(
    model: ModelPlan,
    data: DataPlan,
    how: RunPlan,
    methods: tuple[str, ...],
    layers: tuple[str, ...],
    subject: NamedModel,
    images: Images,
) -> Plan:
    x = first_readable(images).x[None]
    check_runs(subject.model, x)
    named = layers or tuple(evenly_spread(default_layers(subject.model, x), _MOST_LAYERS))
    step = -(-x.shape[2] * x.shape[3] // _STEPS)
    measures = (
        MeasurePlan("class_sensitivity"),
        MeasurePlan("parameter_randomization", arguments={"layers": _whole(subject.model), "init": "matched"}),
        MeasurePlan("removal_contrast", arguments={"step": step}),
    )
    return Plan(tuple(MethodPlan(m) for m in methods), measures, data, model, how, named)


def _grid_plan(plan: Plan) -> Plan:
    measures = (MeasurePlan("grid_pointing_game"),)
    return Plan(plan.methods, measures, DataPlan(_GRIDS), plan.model, plan.run, plan.layers)


def _whole(model: nn.Module) -> list[str]:
    """Returns the parts of a model that hold its parameters: the last of them stands for all, in a cascade."""
    prefix = ""
    while True:
        inner = model.get_submodule(prefix.rstrip("."))
        parts = [prefix + name for name, child in inner.named_children() if any(True for _ in child.parameters())]
        if len(parts) != 1:
            return parts or [prefix.rstrip(".")]
        prefix = f"{parts[0]}."


# --- Grids ------------------------------------------------------------------------------------------------------------


def _grids(subject: NamedModel, images: Images, how: RunPlan) -> GridImages | str:
    """Returns grids of the pictures of which the network is sure, or why there are none."""
    model = subject.model.to(how.device).eval()
    cells = [cell for i in range(images.count) if (cell := _cell(model, images, i, how.device)) is not None]
    kinds = len({c for _, c in cells})
    if kinds < _CELLS**2:
        return (
            f"Grid pointing is not asked: at half their size the network is sure (p > {_SURE}) of pictures of "
            f"{kinds} classes, and a grid takes {_CELLS**2}."
        )
    return GridImages(cells, n=_CELLS, count=len(cells), seed=how.seed)


def _cell(model: nn.Module, images: Images, i: int, device: str) -> tuple[Tensor, int] | None:
    """Returns a picture at half its size and the class that the network sees in it there, if it is sure."""
    try:
        x = images.read(i).x
    except UnreadableError:
        return None
    size = x.shape[1] // _CELLS, x.shape[2] // _CELLS
    small = F.interpolate(x[None], size, mode="bilinear", antialias=True)
    with torch.no_grad():
        scores = model(F.interpolate(small, x.shape[1:], mode="bilinear").to(device)).float()
    if has_one_output(scores, 1):
        return None
    sure, said = scores.softmax(1).max(1)
    return (small[0], int(said)) if float(sure) > _SURE else None


# --- Numbers ----------------------------------------------------------------------------------------------------------

_DETAILS = {"class_sensitivity": "", "removal_contrast": "delta", "grid_pointing_game": "accuracy"}


def _values(results: Results) -> dict[str, dict[MethodAtLayer, Array]]:
    """Returns each measure's values by method at layer, a number for each picture; similarities as magnitudes."""
    found: dict[str, dict[MethodAtLayer, Array]] = {}
    for measure in results.plan.measures:
        every = groups(results, measure)
        group = next((g for g in every if g.detail == _DETAILS.get(measure.measure)), every[-1])
        own = {place: v for place, v in group.values.items() if place != CENTRE}
        if group.interpretation.magnitude:
            own = {place: np.abs(v) for place, v in own.items()}
        pictures, which = np.unique(group.pairs[:, 0], return_inverse=True)
        counts = np.bincount(which, minlength=len(pictures))
        found[measure.measure] = {place: np.bincount(which, v) / counts for place, v in own.items()}
    return found
