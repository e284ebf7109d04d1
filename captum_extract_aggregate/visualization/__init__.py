"""Pictures of maps: overlays on the image, and grids of methods, layers, classes or stages of randomisation."""

from captum_extract_aggregate.visualization.figures import grid, overlaid, overlay
from captum_extract_aggregate.visualization.rows import (
    class_title,
    maps_by_class,
    maps_by_layer,
    maps_by_stage,
    maps_by_target,
)

__all__ = [
    "class_title",
    "grid",
    "maps_by_class",
    "maps_by_layer",
    "maps_by_stage",
    "maps_by_target",
    "overlaid",
    "overlay",
]
