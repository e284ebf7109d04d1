"""A plan made ready: model, images, methods and measures, each checked before any work starts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._engine.default_layers import default_layers
from captum_extract_aggregate._engine.layers import find_layer
from captum_extract_aggregate._engine.one_output import check_logit, give_both_signs, has_one_output
from captum_extract_aggregate.attr.by_name import find_method
from captum_extract_aggregate.data.models_by_name import load_subject
from captum_extract_aggregate.data.network_weights import replace_head
from captum_extract_aggregate.evaluation.checks import check_explains, check_needs, check_runs, warn_of_forwards
from captum_extract_aggregate.evaluation.datasets import open_images
from captum_extract_aggregate.evaluation.guard import Keeper, undisturbed
from captum_extract_aggregate.evaluation.images import Images, Sample, UnreadableError
from captum_extract_aggregate.evaluation.measure_spec import find_measure
from captum_extract_aggregate.evaluation.measure_trial import try_measure
from captum_extract_aggregate.evaluation.methods import INPUT, make_ready
from captum_extract_aggregate.evaluation.plan import MeasurePlan, MethodPlan, Plan
from captum_extract_aggregate.evaluation.prepared import Measurement, Prepared
from captum_extract_aggregate.evaluation.sources import code_of

_MOST_LAYERS = 5  # of a kind, where none are named


def prepare(plan: Plan, device: torch.device) -> Prepared:
    """Builds all that a plan names; raises ValueError with one clear line for whatever is wrong."""
    with undisturbed():
        measures = tuple(_measurement(m) for m in plan.measures)
        for measure in measures:
            try_measure(measure.plan, measure.spec)
        for method in plan.methods:
            find_method(method.method)
        subject = load_subject(plan.model.name, plan.model.weights, plan.model.num_classes)
    if plan.model.head:
        replace_head(subject.model, plan.model.head)
    model = subject.model.to(device).eval()
    images = open_images(plan.data, subject)
    sample = first_readable(images)
    scores = check_runs(model, sample.x[None].to(device))
    of_signs = has_one_output(scores, 1)
    if of_signs:
        check_logit(model, (sample.x[None].to(device),), ())
        give_both_signs(model)
    classes = 2 if of_signs else scores.shape[1]
    if not plan.model.head and plan.model.num_classes not in (0, classes):
        raise InvalidValueError(
            f"model.num_classes is {plan.model.num_classes}, but {plan.model.name!r} gives {classes} scores"
        )
    check_needs(plan, measures, images, classes)
    warn_of_forwards(measures, sample.x.shape[1:])
    defaults = plan.layers or _default_layers(plan, model, sample.x[None].to(device))
    for name in set(plan.layers) - {INPUT}:
        find_layer(name, model)  # our error for an unknown one, though every method may have layers of its own
    x = sample.x[None].to(device)
    methods = tuple(make_ready(m, _suited(m, plan, model, x) or defaults, model) for m in plan.methods)
    keeper = Keeper(model) if any(measure.is_users for measure in measures) else None
    prepared = Prepared(plan, model, images, methods, measures, keeper, of_signs=of_signs)
    check_explains(prepared, sample, device)
    return prepared


def _measurement(plan: MeasurePlan) -> Measurement:
    spec = find_measure(plan)
    return Measurement(plan, spec, code_of(plan.measure, spec.function) if spec.is_users else {})


def _default_layers(plan: Plan, model: nn.Module, x: Tensor) -> tuple[str, ...]:
    return () if all(m.layers for m in plan.methods) else tuple(default_layers(model, x))


def _suited(method: MethodPlan, plan: Plan, model: nn.Module, x: Tensor) -> tuple[str, ...]:
    """Returns layers of the kind that a method goes with, where neither it nor the plan names any."""
    if method.layers or plan.layers:
        return ()
    return tuple(find_method(method.method).suited_layers(model, x, _MOST_LAYERS) or ())


def first_readable(images: Images) -> Sample:
    """Returns the first image that can be read."""
    error: UnreadableError | None = None
    for i in range(min(images.count, 20)):
        try:
            return images.read(i)
        except UnreadableError as caught:
            error = error or caught
    raise InvalidValueError(f"none of the first images can be read; {error}")
