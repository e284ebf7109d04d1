"""The embedded scenes and the networks trained on them."""

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam

import captum_extract_aggregate as cea
from captum_extract_aggregate.data import scene_models, scenes, train_scenes


def test_items():
    data = cea.DigitScenes(40, seed=5)
    assert len(data) == 40
    for image, target in (data[i] for i in range(40)):
        count = len(target["labels"])
        assert image.shape == (3, 96, 96)
        assert image.dtype == torch.float32
        assert 1 <= count <= 4
        assert target["boxes"].shape == (count, 4)
        assert target["masks"].shape == (count, 96, 96)
        assert sorted(set(target["labels"].tolist())) == target["classes"].nonzero().flatten().tolist()
        for (x0, y0, x1, y1), mask in zip(target["boxes"].int().tolist(), target["masks"]):
            assert 0 <= x0 < x1 <= 96
            assert 0 <= y0 < y1 <= 96
            rows, columns = mask.nonzero(as_tuple=True)
            assert x0 <= columns.min()
            assert columns.max() < x1
            assert y0 <= rows.min()
            assert rows.max() < y1
        rgb = data.to_rgb(image)
        assert rgb.min() >= 0
        assert rgb.max() <= 1


def test_visible_masks_do_not_overlap_and_some_digits_are_partly_hidden():
    hidden = 0
    for _, target in (cea.DigitScenes(60, seed=1)[i] for i in range(60)):
        assert target["masks"].sum(0).max() <= 1
        areas = target["masks"].flatten(1).sum(1)
        assert (areas > 10).all()
        boxes = target["boxes"]
        for i in range(len(boxes)):
            for j in range(i):
                overlap = torch.minimum(boxes[i, 2:], boxes[j, 2:]) - torch.maximum(boxes[i, :2], boxes[j, :2])
                hidden += bool((overlap > 0).all())
    assert hidden > 5


def test_scenes_are_reproducible_and_splits_disjoint():
    first, again = cea.DigitScenes(5, seed=1)[3], cea.DigitScenes(50, seed=1)[3]
    assert torch.equal(first[0], again[0])
    assert all(torch.equal(first[1][key], again[1][key]) for key in first[1])
    assert not torch.equal(first[0], cea.DigitScenes(5, seed=2)[3][0])
    assert torch.equal(cea.DigitScenes(5)[-1][0], cea.DigitScenes(5)[4][0])
    with pytest.raises(IndexError):
        cea.DigitScenes(5)[5]
    train, test = (set(map(bytes, scenes._glyphs(split)[0])) for split in ("train", "test"))
    assert len(train & test) == 0
    assert len(train) + len(test) > 1790


def test_normalisation():
    images = torch.stack([cea.DigitScenes(200, seed=1, split="train")[i][0] for i in range(200)])
    assert images.mean().abs() < 0.1
    assert abs(images.std() - 1) < 0.1


@pytest.mark.parametrize(("name", "least"), [("vgg", 0.94), ("resnet", 0.96), ("vit", 0.86)])
def test_shipped_networks(name, least):
    model = cea.load_scene_model(name)
    assert not model.training
    images, classes = train_scenes.load_scenes(300, 3, "test")
    precision = train_scenes.mean_average_precision(model, images, classes)
    print(f"{name}: mean average precision {precision:.4f}")
    assert precision > least
    with_norm = any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    assert with_norm == (name != "vgg")


def test_weights_are_small():
    assert sum(path.stat().st_size for path in scene_models._WEIGHTS.glob("*.safetensors")) < 2.5e6


def test_training_script_runs(tmp_path):
    images, classes = train_scenes.load_scenes(64, 1, "train")
    for name in ("vgg", "resnet", "vit"):
        model = scene_models.build_scene_model(name)
        before = [p.clone() for p in model.parameters()]
        train_scenes.train(model, images, classes, epochs=2, seed=0)
        assert not model.training
        assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
        path = scene_models.save_scene_weights(model, name, tmp_path)
        assert path.is_file()


def test_the_vit_learns_from_crops():
    crops, classes = train_scenes.load_crops(40, 1, "train")
    assert crops.shape[1:] == (3, 48, 48)
    assert len(crops) == len(classes) > 60
    assert classes.sum(1).min() >= 1  # the digit in the middle at least
    model = scene_models.build_scene_model("vit")
    before = [p.clone() for p in model.parameters()]
    train_scenes.train(model, crops, classes, epochs=1, seed=0)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))


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


def pointing_rate(maps, pairs):
    """Share of maps whose maximum falls on the class's digits (by 3 pixels at most beside their boxes)."""
    hits = 0
    maps = F.interpolate(maps, (96, 96), mode="bilinear")
    for m, (target, label) in zip(maps, pairs):
        y, x = divmod(m.flatten().argmax().item(), 96)
        boxes = target["boxes"][target["labels"] == label]
        hits += any(x0 - 3 <= x < x1 + 3 and y0 - 3 <= y < y1 + 3 for x0, y0, x1, y1 in boxes.tolist())
    return hits / len(pairs)


def test_the_scenes_tell_methods_apart():
    """Captum's GradCAM misses the digits before the last stage; the linear approximation does not (R20, Table 3)."""
    model = cea.load_scene_model("vgg")
    data = [cea.DigitScenes(120, seed=7)[i] for i in range(120)]
    images = torch.stack([image for image, _ in data])
    pairs = [(target, int(target["labels"][0])) for _, target in data]
    labels = torch.tensor([label for _, label in pairs])
    layers = list(cea.default_layers(model).values())
    linear = [pointing_rate(m, pairs) for m in cea.LinearApproximation(model, layers).attribute(images, labels)]
    gradcam = [pointing_rate(LayerGradCam(model, layer).attribute(images, labels), pairs) for layer in layers]
    print("linear approximation", linear, "GradCAM", gradcam)
    assert min(linear) > 0.8
    assert max(gradcam[:2]) < min(linear) - 0.15
