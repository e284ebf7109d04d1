"""Evaluation at scale: many images x methods x layers x measures, from a plan, resumable, on one process or many."""

import captum_extract_aggregate.evaluation.measures
import captum_extract_aggregate.evaluation.measures_of_curves
import captum_extract_aggregate.evaluation.measures_of_grids
import captum_extract_aggregate.evaluation.measures_of_maps
import captum_extract_aggregate.evaluation.measures_of_robustness  # noqa: F401  # which registers them, too
from captum_extract_aggregate.evaluation.choice.board import Board, Line
from captum_extract_aggregate.evaluation.choice.choose import choose
from captum_extract_aggregate.evaluation.choice.choosing import Answer, Candidate, Choice
from captum_extract_aggregate.evaluation.choice.leaderboard import leaderboard
from captum_extract_aggregate.evaluation.choice.standing import Standing
from captum_extract_aggregate.evaluation.comparing import ComparisonTable, comparisons
from captum_extract_aggregate.evaluation.explained import Column, ImageBatch
from captum_extract_aggregate.evaluation.measure_spec import (
    MEASURES,
    Interpretation,
    MeasureSpec,
    describe_measure,
    list_measures,
    register_measure,
    unregister_measure,
)
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
    plan_schema,
)
from captum_extract_aggregate.evaluation.reporting.report import report
from captum_extract_aggregate.evaluation.runner import run
from captum_extract_aggregate.evaluation.statistics import Summary, summarize
from captum_extract_aggregate.evaluation.store import Results

__all__ = [
    "Answer",
    "Board",
    "Candidate",
    "Choice",
    "Column",
    "CombinationPlan",
    "ComparisonTable",
    "DataPlan",
    "ImageBatch",
    "Interpretation",
    "Line",
    "MeasurePlan",
    "MeasureSpec",
    "MetaPlan",
    "MethodPlan",
    "ModelPlan",
    "Plan",
    "Results",
    "RunPlan",
    "Standing",
    "Summary",
    "choose",
    "comparisons",
    "describe_measure",
    "leaderboard",
    "list_measures",
    "load_plan",
    "plan_from",
    "plan_schema",
    "register_measure",
    "report",
    "run",
    "summarize",
    "unregister_measure",
]

MEASURES.seal()
