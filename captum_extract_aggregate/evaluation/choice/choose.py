"""For a network and pictures without annotations: which method at which layer can be trusted?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.default_layers import default_layers
from captum_extract_aggregate.attr.by_name import evenly_spread
from captum_extract_aggregate.data.grid_images import GridImages
from captum_extract_aggregate.data.models_by_name import NamedModel, load_subject
from captum_extract_aggregate.evaluation.checks import check_runs
from captum_extract_aggregate.evaluation.choice.asked import of_other_networks, removal_in_steps
from captum_extract_aggregate.evaluation.choice.choosing import Choice, decide
from captum_extract_aggregate.evaluation.choice.given import (
    check_count,
    data_plan,
    model_plan,
    register_data,
    results_folder,
)
from captum_extract_aggregate.evaluation.choice.per_picture import values_per_picture
from captum_extract_aggregate.evaluation.choice.sure_cells import grids_of
from captum_extract_aggregate.evaluation.datasets import open_images
from captum_extract_aggregate.evaluation.images import Images
from captum_extract_aggregate.evaluation.plan import DataPlan, MeasurePlan, MethodPlan, ModelPlan, Plan, RunPlan
from captum_extract_aggregate.evaluation.prepare import first_readable
from captum_extract_aggregate.evaluation.runner import run

METHODS = ("gradcam", "normgrad", "selective-normgrad", "linear-approximation")
_MOST_LAYERS = 3
_GRIDS = "grids of the pictures"


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
    check_count(n)
    if isinstance(methods, str) or not methods:
        raise InvalidTypeError(f"methods is {methods!r}; expected a list of names, such as ['gradcam', 'normgrad']")
    with Undo() as undo, undo:
        folder = results_folder(results, undo)
        named = model_plan(model, weights, undo)
        data = data_plan(images, n, folder, undo)
        subject = load_subject(named.name, named.weights, named.num_classes)
        found = open_images(data, subject)
        if found.count < 2:
            raise InvalidValueError(f"images holds {found.count} picture; expected at least 2")
        how = RunPlan(min(batch_size, found.count), seed, device, threads or torch.get_num_threads(), "skip")
        plan = _plan(named, data, how, tuple(methods), tuple(layers), subject, found)
        values = values_per_picture(run(plan, folder / "pictures", show_progress))
        grids = grids_of(subject.model, found, range(found.count), seed, device)
        left_out = [grids] if isinstance(grids, str) else []
        if isinstance(grids, GridImages):
            register_data(_GRIDS, grids, undo)
            values |= values_per_picture(run(_grid_plan(plan), folder / "grids", show_progress))
        choice = decide(values, found.count, left_out)
        if results is not None:
            choice.write(folder)
    return choice


# --- What is asked ----------------------------------------------------------------------------------------------------


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
    measures = (MeasurePlan("class_sensitivity"), of_other_networks(subject.model), removal_in_steps(x))
    return Plan(tuple(MethodPlan(m) for m in methods), measures, data, model, how, named)


def _grid_plan(plan: Plan) -> Plan:
    measures = (MeasurePlan("grid_pointing_game"),)
    return Plan(plan.methods, measures, DataPlan(_GRIDS), plan.model, plan.run, plan.layers)
