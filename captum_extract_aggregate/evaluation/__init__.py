"""Evaluation at scale: many images x methods x layers x measures, from a plan, resumable, on one process or many."""

from captum_extract_aggregate.evaluation.plan import (
    CombinationPlan,
    DataPlan,
    MeasurePlan,
    MetaPlan,
    MethodPlan,
    ModelPlan,
    Plan,
    RunPlan,
    load_plan,
    plan_from,
)
from captum_extract_aggregate.evaluation.runner import run
from captum_extract_aggregate.evaluation.store import Results

__all__ = [
    "CombinationPlan",
    "DataPlan",
    "MeasurePlan",
    "MetaPlan",
    "MethodPlan",
    "ModelPlan",
    "Plan",
    "Results",
    "RunPlan",
    "load_plan",
    "plan_from",
    "run",
]
