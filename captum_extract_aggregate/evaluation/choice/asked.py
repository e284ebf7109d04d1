"""Measures as they are asked of a network without annotations, with what depends on the network."""

from __future__ import annotations

from torch import Tensor, nn

from captum_extract_aggregate.evaluation.plan import MeasurePlan

_STEPS = 10  # in which all pixels are removed


def of_other_networks(model: nn.Module) -> MeasurePlan:
    """Returns the question whether maps depend on what was learned: all parameters are drawn anew, part by part."""
    arguments = {"layers": _parts_with_parameters(model), "init": "matched"}
    return MeasurePlan("parameter_randomization", arguments=arguments)


def removal_in_steps(x: Tensor) -> MeasurePlan:
    """Returns the question whether the order of a map's pixels says more of the decision than that of other maps."""
    return MeasurePlan("removal_contrast", arguments={"step": step_of(x)})


def step_of(x: Tensor) -> int:
    """Returns how many pixels of inputs are removed in each of ten steps."""
    return -(-x.shape[2] * x.shape[3] // _STEPS)


def _parts_with_parameters(model: nn.Module) -> list[str]:
    """Returns the parts of a model that hold its parameters: the last of them stands for all, in a cascade."""
    prefix = ""
    while True:
        inner = model.get_submodule(prefix.rstrip("."))
        parts = [prefix + name for name, child in inner.named_children() if any(True for _ in child.parameters())]
        if len(parts) != 1:
            return parts or [prefix.rstrip(".")]
        prefix = f"{parts[0]}."
