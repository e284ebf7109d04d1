"""The embedded scenes and the networks trained on them."""

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam

import captum_extract_aggregate as cea
from captum_extract_aggregate.data import scenes


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
    data = [cea.DigitScenes(60, seed=7)[i] for i in range(60)]
    images = torch.stack([image for image, _ in data])
    pairs = [(target, int(target["labels"][0])) for _, target in data]
    labels = torch.tensor([label for _, label in pairs])
    layers = list(cea.default_layers(model).values())
    linear = [pointing_rate(m, pairs) for m in cea.LinearApproximation(model, layers).attribute(images, labels)]
    gradcam = [pointing_rate(LayerGradCam(model, layer).attribute(images, labels), pairs) for layer in layers]
    print("linear approximation", linear, "GradCAM", gradcam)
    assert min(linear) > 0.8
    assert max(gradcam[:2]) < min(linear) - 0.15
