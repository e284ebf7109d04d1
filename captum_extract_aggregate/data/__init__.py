"""Embedded digit scenes with small networks trained on them, and image-class pairs of VOC and COCO."""

from captum_extract_aggregate.data.captioner import SceneCaptioner, load_scene_captioner
from captum_extract_aggregate.data.grid_images import GridImages
from captum_extract_aggregate.data.pointing_pairs import (
    VOC_CLASSES,
    PointingPairs,
    coco_pairs,
    mask_from_boxes,
    mask_from_polygons,
    voc_pairs,
)
from captum_extract_aggregate.data.scene_models import SceneResNet, SceneVGG, SceneViT, load_scene_model
from captum_extract_aggregate.data.scenes import DigitScenes

__all__ = [
    "VOC_CLASSES",
    "DigitScenes",
    "GridImages",
    "PointingPairs",
    "SceneCaptioner",
    "SceneResNet",
    "SceneVGG",
    "SceneViT",
    "coco_pairs",
    "load_scene_captioner",
    "load_scene_model",
    "mask_from_boxes",
    "mask_from_polygons",
    "voc_pairs",
]
