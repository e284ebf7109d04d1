"""The small networks of the scenes, and their trained weights."""

import pytest
import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate.data import scene_models, train_scenes


@pytest.mark.parametrize(("name", "least"), [("vgg", 0.94), ("resnet", 0.96), ("vit", 0.86)])
def test_shipped_networks(name, least):
    model = cea.load_scene_model(name)
    assert not model.training
    images, classes = train_scenes.load_scenes(150, 3, "test")
    precision = train_scenes.mean_average_precision(model, images, classes)
    print(f"{name}: mean average precision {precision:.4f}")
    assert precision > least
    with_norm = any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    assert with_norm == (name != "vgg")


def test_weights_are_small():
    assert sum(path.stat().st_size for path in scene_models._WEIGHTS.glob("*.safetensors")) < 2.5e6


def test_a_crop_takes_its_places_positions():
    """Zero attention would see nothing of a crop's place; the positions are those of the tokens it covers."""
    model = cea.load_scene_model("vit")
    crop = cea.DigitScenes(1)[0][0][None, :, 24:72, 48:96]
    with torch.no_grad():
        assert not torch.equal(model(crop, corner=(3, 6)), model(crop, corner=(0, 0)))
        grid = model.positions[:, :, 3:9, 6:12].clone()
        model.positions.zero_()
        model.positions[:, :, :6, :6] = grid
        moved = model(crop)
    assert torch.equal(moved, cea.load_scene_model("vit")(crop, corner=(3, 6)))


@pytest.mark.parametrize(
    ("shape", "corner"), [((1, 3, 104, 104), (0, 0)), ((1, 3, 48, 48), (0, 7)), ((1, 3, 50, 48), (0, 0))]
)
def test_what_the_vit_does_not_take(shape, corner):
    with pytest.raises(ValueError, match="multiples of 8 within"):
        scene_models.SceneViT()(torch.zeros(shape), corner=corner)
