"""Where one adds something of one's own, for this process: `register_*`, and `unregister_*` to take it away again."""

from captum_extract_aggregate._engine.operations import list_operations, register_operation, unregister_operation
from captum_extract_aggregate.attr.extract_aggregate.aggregate import (
    list_aggregates,
    register_aggregate,
    unregister_aggregate,
)
from captum_extract_aggregate.attr.extract_aggregate.contribution import Factor, Summand
from captum_extract_aggregate.attr.extract_aggregate.extract import list_layers, register_layer, unregister_layer

__all__ = [
    "Factor",
    "Summand",
    "list_aggregates",
    "list_layers",
    "list_operations",
    "register_aggregate",
    "register_layer",
    "register_operation",
    "unregister_aggregate",
    "unregister_layer",
    "unregister_operation",
]
