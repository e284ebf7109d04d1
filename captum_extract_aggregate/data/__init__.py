"""Embedded data: digit scenes with known boxes and masks, and two small networks trained on them."""

from captum_extract_aggregate.data.scene_models import SceneResNet, SceneVGG, load_scene_model
from captum_extract_aggregate.data.scenes import DigitScenes

__all__ = ["DigitScenes", "SceneResNet", "SceneVGG", "load_scene_model"]
