"""Data sets of every kind, opened and read."""

import pytest
import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate.metrics import (
    class_sensitivity,
)
from tests.evaluation import plans
from tests.evaluation.explaining import Summed, close, values
from tests.evaluation.plans import (
    HERE,
    POINTING,
    coco_tree,
    evaluated,
    of,
    picture_folder,
    voc_tree,
)


def test_scenes_by_start_and_every(tmp_path):
    whole = evaluated(tmp_path / "whole", data={"n": 7}, run={"batch_size": 1})
    some = evaluated(tmp_path / "some", data={"n": 3, "start": 1, "every": 2}, run={"batch_size": 1})
    assert [row.name for row in some.images()] == ["scene 1", "scene 3", "scene 5"]
    expected = [row for row in whole.rows("class_sensitivity") if row.image in (1, 3, 5)]
    assert [row.value for row in some.rows("class_sensitivity")] == [row.value for row in expected]


@pytest.mark.parametrize("resize", ["short", "square"])
def test_voc(resize, tmp_path):
    data = {"kind": "voc", "root": str(voc_tree(tmp_path)), "size": 24, "resize": resize}
    results = of(tmp_path, data, measures=POINTING)
    assert [row.name for row in results.images()] == [f"{i:06d}.jpg" for i in range(6)]
    wanted = {(i, plans_class(name)) for i, objects in enumerate(plans.OBJECTS) for name, _ in objects}
    assert {key for key, row in results.targets().items() if row.present} == wanted
    from torchvision.datasets import VOCDetection
    from torchvision.transforms.v2 import functional as TF

    from captum_extract_aggregate.data import voc_pairs

    items, net = VOCDetection(str(tmp_path), "2007", "test"), plans.tiny_net().eval()
    hits = []
    for i in range(6):
        picture, annotation = items[i]
        width, height = picture.size
        scale = 24 / min(width, height)
        size = [24, 24] if resize == "square" else [round(height * scale), round(width * scale)]
        x = TF.to_dtype(TF.to_image(TF.resize(picture, size, antialias=True)), torch.float32, scale=True)
        x = TF.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]).as_subclass(torch.Tensor)[None]
        pairs, method = voc_pairs(annotation), cea.NormGrad(net, "conv2")
        maps = torch.cat([method.attribute(x, target=c) for c in pairs.classes])
        hits += cea.metrics.pointing_game(maps, pairs.masks, 3).tolist() if hasattr(cea, "metrics") else []
    got = values(results, "pointing_game", method="normgrad", layer="conv2")
    assert got.bool().tolist() == hits
    difficult = {key for key, row in results.targets().items() if row.difficult}
    assert difficult <= {key for key, row in results.targets().items() if row.classes > 1}
    assert difficult


def plans_class(name):
    from captum_extract_aggregate.data.pointing_pairs import VOC_CLASSES

    return VOC_CLASSES.index(name)


def test_coco(tmp_path):
    pytest.importorskip("pycocotools")
    results = of(tmp_path, coco_tree(tmp_path), measures=POINTING, model={"name": f"{HERE}:net_of_two_classes"})
    assert [row.name for row in results.images()] == [f"{i}.png" for i in range(4)]
    present = {key for key, row in results.targets().items() if row.present}
    assert present == {(0, 0), (1, 0), (1, 1), (2, 0), (3, 0), (3, 1)}
    assert len(results.rows("pointing_game", method="normgrad", layer="conv1")) == 6
    assert results.complete


def test_folders_and_lists(tmp_path):
    root = picture_folder(tmp_path / "pictures")
    of_folder = of(tmp_path, {"kind": "folder", "root": str(root), "size": 24})
    assert [(row.name, row.label) for row in of_folder.images()] == [
        ("ants/0.png", 0),
        ("ants/2.png", 0),
        ("bees/1.png", 1),
        ("bees/3.png", 1),
    ]
    lines = "".join(f"{row.name}\t{row.label}\tsome name\n" for row in of_folder.images())
    (root / "list.tsv").write_text(lines + "\n")
    (tmp_path / "elsewhere.txt").write_text(lines.replace("\t0\tsome name", ""))
    for i, given in enumerate(
        ({"file": str(root / "list.tsv")}, {"file": str(tmp_path / "elsewhere.txt"), "root": str(root)})
    ):
        of_list = of(tmp_path / str(i), {"kind": "list", "size": 24} | given)
        assert [r.value for r in of_list.rows("class_sensitivity")] == [
            r.value for r in of_folder.rows("class_sensitivity")
        ]
        assert [row.label for row in of_list.images()] == ([0, 0, 1, 1] if i == 0 else [-1, -1, 1, 1])


def test_a_folder_below_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    picture_folder(tmp_path / "pictures")
    assert of(tmp_path, {"kind": "folder", "root": "~/pictures", "size": 24}).complete


def test_tensors_of_ones_own(tmp_path):
    data = {"kind": "custom", "dataset": f"{HERE}:tensors", "arguments": {"count": 5}}
    results = of(tmp_path, data)
    assert [row.label for row in results.images()] == [0, 1, 2, 0, 1]
    x = torch.stack([plans.tensors(5)[i][0] for i in range(5)])
    net = plans.tiny_net().eval()
    expected = class_sensitivity(Summed(cea.NormGrad(net, "conv2")), x, net)
    assert close(values(results, "class_sensitivity", layer="conv2"), expected)


def test_objects_of_ones_own(tmp_path):
    results = of(tmp_path, {"kind": "custom", "dataset": f"{HERE}:tensors_with_pairs"}, measures=POINTING)
    assert {key for key, row in results.targets().items() if row.present} == {(i, c) for i in range(3) for c in (0, 2)}


def test_pictures_with_objects_are_not_cropped(tmp_path):
    """A crop does not show what the masks of the whole picture show: refused, or the whole picture is taken."""
    data = {"kind": "custom", "dataset": f"{HERE}:pictures_with_pairs", "size": 24}
    with pytest.raises(ValueError, match="resize"):
        of(tmp_path / "crop", data | {"resize": "crop"}, measures=POINTING)
    for resize, expected in (("short", (24, 48)), ("square", (24, 24))):
        results = of(tmp_path / resize, data | {"resize": resize}, measures=POINTING)
        assert {(m.image_height, m.image_width) for m in results.maps()} == {expected}
    try:
        default = of(tmp_path / "default", data, measures=POINTING)
    except ValueError:
        return
    assert {(m.image_height, m.image_width) for m in default.maps()} == {(24, 48)}
