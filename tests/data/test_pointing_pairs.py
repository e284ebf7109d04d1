"""Image-class pairs of annotated data sets."""

import numpy as np
import pytest
import torch
import torchvision

from captum_extract_aggregate.data import coco_pairs, mask_from_boxes, mask_from_polygons, voc_pairs
from captum_extract_aggregate.metrics import PointingGame, centre_map
from tests.conftest import REAL_DATA, needs_real_data
from tests.reference import metrics as reference


def test_masks_of_boxes():
    mask = mask_from_boxes([[1, 2, 3, 4], [-5, -5, 1, 1], [8, 8, 50, 50]], (10, 10))
    assert torch.nonzero(mask[:6, :6]).tolist() == [[0, 0], [2, 1], [2, 2], [3, 1], [3, 2]]
    assert mask[8:, 8:].all()
    assert mask.sum() == 1 + 4 + 4
    expected = reference.mask_from_boxes([[2, 3, 3, 4]], 10, 10)  # VOC's corners count from 1 and belong to the box
    assert np.array_equal(mask_from_boxes([[1, 2, 3, 4]], (10, 10)).numpy(), expected)
    assert mask_from_boxes([], (4, 4)).sum() == 0


def test_masks_of_polygons():
    mask = mask_from_polygons([[2, 1, 6, 1, 6, 4, 2, 4], [8, 8, 9, 8, 9, 9]], (10, 12))
    assert mask[1:5, 2:7].all()
    assert mask[8:, 8:10].sum() == 3
    assert mask.sum() == 20 + 3
    with pytest.raises(ValueError, match="three corners"):
        mask_from_polygons([[1, 2, 3, 4]], (5, 5))


def voc(*objects, size=(100, 200)):
    def item(name, box, difficult="0"):
        corners = dict(zip(("xmin", "ymin", "xmax", "ymax"), map(str, box)))
        return {"name": name, "bndbox": corners, "difficult": difficult}

    return {
        "annotation": {"size": {"height": str(size[0]), "width": str(size[1])}, "object": [item(*o) for o in objects]}
    }


def test_voc_pairs():
    pairs = voc_pairs(voc(("dog", (1, 1, 200, 80)), ("cat", (1, 1, 10, 10)), ("cat", (21, 1, 30, 10), "1")))
    assert pairs.classes == [7, 11]  # cat, dog
    assert pairs.masks.sum((1, 2)).tolist() == [200, 16000]
    assert pairs.difficult == [True, False]
    alone = voc_pairs(voc(("cat", (1, 1, 10, 10))))
    assert alone.difficult == [False]
    hidden = voc_pairs(voc(("cat", (1, 1, 10, 10), "1"), ("dog", (1, 1, 10, 10))))
    assert hidden.classes == [11]
    quarter = voc_pairs(voc(("cat", (1, 1, 100, 50)), ("dog", (1, 1, 10, 10))))
    assert quarter.difficult == [False, True]  # exactly a quarter is not below it
    for i in range(2):
        mask = pairs.masks[i].numpy()
        assert pairs.difficult[i] == reference.is_difficult_pair(mask, pairs.classes[i], pairs.classes)
    with pytest.raises(ValueError, match="'unicorn'"):
        voc_pairs(voc(("unicorn", (1, 1, 10, 10))))
    assert voc_pairs(voc()).masks.shape == (0, 100, 200)


def test_coco_pairs():
    square = [[10.0, 10, 20, 10, 20, 20, 10, 20]]
    items = [
        {"category_id": 18, "segmentation": square, "iscrowd": 0},
        {"category_id": 18, "segmentation": [[30.0, 30, 40, 30, 40, 40, 30, 40]], "iscrowd": 0},
        {"category_id": 3, "segmentation": {"counts": [0, 50, 9950], "size": [100, 100]}, "iscrowd": 1},
    ]
    pairs = coco_pairs(items, (100, 100), categories=[3, 18])
    assert pairs.classes == [1]  # of the other there is only a crowd
    assert pairs.masks[0].sum() == 2 * 121
    assert pairs.difficult == [True]  # small, and not alone
    with pytest.raises(ValueError, match="category id 18"):
        coco_pairs(items, (100, 100), categories=[3])


@needs_real_data
def test_real_annotations():
    """VOC07 and COCO as torchvision reads them; the centre baseline of the former as published for the full split."""
    data = torchvision.datasets.VOCDetection(str(REAL_DATA), year="2007", image_set="test")
    game, count = PointingGame(20), 0
    for i in range(len(data)):
        annotation = data.parse_voc_xml(torchvision.datasets.voc.ET_parse(data.annotations[i]).getroot())
        pairs = voc_pairs(annotation)
        count += len(pairs.classes)
        centres = [centre_map(tuple(pairs.masks.shape[1:]))[0]] * len(pairs.classes)
        game.update(
            centres,
            pairs.masks,
            pairs.classes,
            pairs.difficult,
        )
    assert (len(data), count) == (395, 541)
    result = game.compute()
    print({k: float(v) for k, v in result.items() if "accuracy" in k})
    assert float(result["accuracy"]) == pytest.approx(0.696, abs=0.0005)
    assert float(result["difficult_accuracy"]) == pytest.approx(0.441, abs=0.0005)
    coco = torchvision.datasets.CocoDetection(
        str(REAL_DATA / "coco/val2017"), str(REAL_DATA / "coco/instances_val2017.json")
    )
    categories = sorted(coco.coco.getCatIds())
    for i in range(5):
        image, annotations = coco[i]
        pairs = coco_pairs(annotations, (image.height, image.width), categories)
        assert pairs.masks.shape[1:] == (image.height, image.width)
        assert pairs.masks.flatten(1).any(1).all()
