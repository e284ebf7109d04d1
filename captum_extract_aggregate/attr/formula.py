"""What a method's map is made of, in words of the Extract & Aggregate grid, for the table of all methods."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Formula:
    """Says what a method's map is made of: `aggregate(extract(w, x))` at each position, of weights w and activation x.

    Args:
        extract: as for `ExtractAggregate`: `"bias"` is w alone, `"scaling"` w times x, `"conv1x1"` their outer product.
        aggregate: as for `ExtractAggregate`.
        weights: what takes the gradient's place; `"g"` is the gradient itself.
        layers: how the maps of several layers become one; empty where each layer has its own.
        sign: of the map.
        of_class: whether the map depends on the explained class at all.

    Example:
        >>> from captum_extract_aggregate.registry import Formula
        >>> Formula("scaling", "sum_filter", weights="(g)₊").sign  # LayerCAM
        '≥ 0'
    """

    extract: str
    aggregate: str
    weights: str = "g"
    layers: str = ""
    sign: str = "≥ 0"
    of_class: bool = True
