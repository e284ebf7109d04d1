"""Where one adds something of one's own, for this process: `register_*`, `unregister_*` to take it away again, and
`list_*` of what there is.

What is found here is imported when it is asked for: evaluations need more than maps do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from captum_extract_aggregate._engine.operations import list_operations, register_operation, unregister_operation
from captum_extract_aggregate.attr.by_name import list_methods, register_method, unregister_method
from captum_extract_aggregate.attr.extract_aggregate.aggregate import (
    list_aggregates,
    register_aggregate,
    unregister_aggregate,
)
from captum_extract_aggregate.attr.extract_aggregate.contribution import Factor, Summand
from captum_extract_aggregate.attr.extract_aggregate.extract import list_layers, register_layer, unregister_layer
from captum_extract_aggregate.attr.formula import Formula
from captum_extract_aggregate.data.models_by_name import list_models, register_model, unregister_model

if TYPE_CHECKING:
    from captum_extract_aggregate.evaluation.data_kinds import list_datasets, register_dataset, unregister_dataset
    from captum_extract_aggregate.evaluation.measure_spec import list_measures, register_measure, unregister_measure

__all__ = [
    "Factor",
    "Formula",
    "Summand",
    "list_aggregates",
    "list_datasets",
    "list_layers",
    "list_measures",
    "list_methods",
    "list_models",
    "list_operations",
    "register_aggregate",
    "register_dataset",
    "register_layer",
    "register_measure",
    "register_method",
    "register_model",
    "register_operation",
    "unregister_aggregate",
    "unregister_dataset",
    "unregister_layer",
    "unregister_measure",
    "unregister_method",
    "unregister_model",
    "unregister_operation",
]
_OF_EVALUATIONS = ("measure", "dataset")


def __getattr__(name: str) -> Any:
    if name not in __all__ or not name.rstrip("s").endswith(_OF_EVALUATIONS):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module("captum_extract_aggregate.evaluation")  # registers the package's own
    of = "measure_spec" if "measure" in name else "data_kinds"
    return getattr(importlib.import_module(f"captum_extract_aggregate.evaluation.{of}"), name)
