"""What is checked of a plan before any work starts, once its parts are there."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError, is_out_of_memory, said
from captum_extract_aggregate._common.memory import free, peak_of
from captum_extract_aggregate._common.own_code import place_of
from captum_extract_aggregate._engine.layers import find_layer
from captum_extract_aggregate._engine.one_output import has_one_output
from captum_extract_aggregate._engine.outputs import scored
from captum_extract_aggregate.evaluation.explainer import stages_of
from captum_extract_aggregate.evaluation.images import Images, Sample
from captum_extract_aggregate.evaluation.methods import Method
from captum_extract_aggregate.evaluation.plan import DataPlan, Plan
from captum_extract_aggregate.evaluation.prepared import Measurement, Prepared

_ONE_TOO_MANY = "; one image is too much: take later layers, or a smaller data.size"
_SHARE = 0.9  # of what is free, which a batch may take without a warning
_MANY_FORWARDS, _ENOUGH_FORWARDS = 1000, 50  # for one map


def check_needs(plan: Plan, measures: Sequence[Measurement], images: Images, classes: int) -> None:
    """Raises our error for a measure that needs what the plan's data or batches do not give."""
    for measure in measures:
        if "objects" in measure.spec.needs:
            _check_objects(plan, measure.plan.measure, images, classes)
        if "other_images" in measure.spec.needs:
            _check_other_images(plan, measure, images)


def _check_objects(plan: Plan, name: str, images: Images, classes: int) -> None:
    if not images.has_objects:
        raise InvalidValueError(
            f"measure {name!r} needs whole images with known objects, but data of the kind {plan.data.kind!r}"
            f"{_how(plan.data)} has none; expected scenes, voc or coco with resize short or square, or a data set of "
            "your own that gives PointingPairs"
        )
    if images.classes and classes != len(images.classes):
        raise InvalidValueError(
            f"the model has {classes} classes, and the data {len(images.classes)} (the first is "
            f"{images.classes[0]!r}); expected a model of the data's classes, in their order (see model.head)"
        )


def _check_other_images(plan: Plan, measure: Measurement, images: Images) -> None:
    name, together = measure.plan.measure, min(plan.run.batch_size, images.count)
    shuffles = measure.arguments().get("n_shuffles", 1)
    if shuffles >= together:
        raise InvalidValueError(
            f"run.batch_size is {plan.run.batch_size}, but {name} takes other images' maps from the batch: n_shuffles "
            f"is {shuffles}, and {together} image(s) go together; expected more"
        )
    if plan.data.kind in ("voc", "coco") and plan.data.resize in ("", "short"):
        raise InvalidValueError(
            f"data.resize is 'short', but {name} takes the maps of other images of the same size; expected 'square' or "
            "'crop'"
        )


def _how(data: DataPlan) -> str:
    return f" with resize {data.resize!r}" if data.resize else ""


def check_runs(model: nn.Module, x: Tensor) -> Tensor:
    """Returns what the model says of one image: class scores, or one score."""
    try:
        with torch.no_grad():
            output = model(x)
    except Exception as error:
        raise InvalidValueError(
            f"the model does not run on an image of shape {tuple(x.shape)} ({said(error)}); expected one that does: "
            "see data.size and data.resize"
        ) from error
    scores = scored(model, output)
    if scores.ndim != 2 and not has_one_output(scores, 1):
        raise InvalidValueError(
            f"the model gives {tuple(scores.shape)}; expected scores, images x classes, or one score an image"
        )
    return scores


def check_explains(prepared: Prepared, sample: Sample, device: torch.device) -> None:
    """Explains one image: whatever a method cannot do is said before any work starts.

    All methods do it together, as they will. Which of them fails, or takes the memory, is looked for if one does.
    """
    batch = prepared.batch([sample], device)
    targets, together = batch.targets[:, :1], min(prepared.plan.run.batch_size, prepared.images.count)
    failed = ""
    try:
        with peak_of(device) as peak:
            prepared.columns(batch.x, targets)
    except Exception as error:
        failed = said(error) + _ONE_TOO_MANY * is_out_of_memory(error)  # not itself, which holds what the try has made
    if failed or not _fits(peak.bytes * together, free(device)):
        took = {method.label: _taken(prepared, method, batch.x, targets) for method in prepared.methods}
        if failed:
            raise InvalidValueError(f"the methods cannot explain this model together: {failed}")
        warn_of_memory(took, together, free(device))
    for measure in prepared.measures:
        if "layers" in measure.spec.needs:
            stages_of(prepared.model, measure.plan.arguments.get("layers"), batch.x, prepared.stages)
        for argument in ("layer", "features"):
            if name := measure.plan.arguments.get(argument):
                find_layer(name, prepared.model)


def _taken(prepared: Prepared, method: Method, x: Tensor, targets: Tensor) -> int:
    """Returns the memory that a method takes by itself; our error where it cannot explain the image."""
    try:
        with peak_of(x.device) as peak:
            replace(prepared, methods=(method,)).columns(x, targets)
    except (ValueError, TypeError) as error:
        raise InvalidValueError(
            f"method {method.label!r} cannot explain this model: {error}{place_of(error)}"
        ) from error
    except Exception as error:  # whatever Captum's own methods, or the model, raise
        cure = _ONE_TOO_MANY * is_out_of_memory(error)
        raise InvalidValueError(f"method {method.label!r} cannot explain this model: {said(error)}{cure}") from error
    return peak.bytes


def _fits(needed: int, left: int | None) -> bool:
    return left is None or needed <= left * _SHARE


def warn_of_memory(took: Mapping[str, int], batch: int, left: int | None) -> None:
    """Warns where a batch of images will hardly fit into memory: the most that a method took for one image says so."""
    if not took or left is None:
        return
    method = max(took, key=lambda label: took[label])
    needed = took[method] * batch
    if not _fits(needed, left):
        fits = max(1, int(left * _SHARE / took[method]))
        warnings.warn(
            f"method {method!r} took {_in_gigabytes(took[method])} for one image, so {batch} at a time may take "
            f"{_in_gigabytes(needed)}, and {_in_gigabytes(left)} are free; expected run.batch_size up to {fits}, later "
            "layers, fewer steps, or a smaller data.size",
            stacklevel=2,
        )


def warn_of_forwards(measures: Sequence[Measurement], size: Sequence[int]) -> None:
    """Warns of measures that take a few pixels of so large an image at a time, unless the plan says how many.

    The measures' own default is the published one, exact to the pixel, whose forwards look like a run that hangs.
    """
    pixels = math.prod(size)
    for measure in measures:
        step = measure.arguments().get("step")
        if measure.is_users or "step" in measure.plan.arguments or not isinstance(step, int):
            continue
        if pixels / step > _MANY_FORWARDS:
            larger = 2 ** round(math.log2(pixels / _ENOUGH_FORWARDS))
            warnings.warn(
                f"measure {measure.label!r} takes {step} of {pixels:,} pixels at a time, up to "
                f"{math.ceil(pixels / step):,} forwards for each map and order; arguments = {{step = {larger}}} takes "
                f"{math.ceil(pixels / larger)}",
                stacklevel=2,
            )


def _in_gigabytes(count: int) -> str:
    return f"{count / 2**30:.2g} GB"
