"""Images that changed, came, went or moved since their results were computed."""

import json
import os
from pathlib import Path

import pytest

from captum_extract_aggregate.evaluation.store import ResultsError
from tests.evaluation.continuing import SMALL, evaluated_images, of_list
from tests.evaluation.plans import (
    SIZES,
    coco_tree,
    dump,
    evaluated,
    picture,
    picture_folder,
    voc_tree,
)


def replaced_in_place(path):
    """Another picture of the same size in bytes and with the same time."""
    before = path.stat()
    content_ = path.read_bytes()
    path.write_bytes(content_[:-20] + bytes(b ^ 1 for b in content_[-20:-12]) + content_[-12:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def test_images_of_a_list_that_changed(tmp_path):
    results, changes = tmp_path / "results", of_list(tmp_path)
    expected = dump(evaluated(results, **changes))

    def refused(message, **changes):
        with pytest.raises(ResultsError, match=message) as caught:
            evaluated(results, **changes)
        assert "choose another --results" in str(caught.value)
        assert "list.txt" in str(caught.value)

    refused("image 1 .*is 'e.png', was 'b.png'", **of_list(tmp_path, names=("a", "e", "c", "d")))
    refused("image 2 .*'c.png'.* has changed", **of_list(tmp_path, labels=(0, 1, 0, 3)))
    original = (tmp_path / "c.png").read_bytes()
    picture(77, SIZES[2]).save(tmp_path / "c.png")
    refused("image 2 .*'c.png'.* has changed", **of_list(tmp_path))
    (tmp_path / "c.png").write_bytes(original)
    os.utime(tmp_path / "c.png", (1, 1))  # another time alone is no change
    assert dump(evaluated(results, **of_list(tmp_path))) == expected
    replaced_in_place(tmp_path / "c.png")
    refused("image 2 .*'c.png'.* has changed", **of_list(tmp_path))


@pytest.mark.parametrize(
    "names",
    [("a", "b", "c", "d", "e", "f"), ("z", "a", "b", "c", "d"), ("b", "a", "c", "d"), ("a", "b", "c"), ("a", "c")],
)
def test_images_of_a_list_that_came_went_or_moved(names, tmp_path, monkeypatch):
    evaluated(tmp_path / "results", **of_list(tmp_path))
    changes = of_list(
        tmp_path, names=names, labels=[ord(name) % 3 if name in "efz" else "abcd".index(name) for name in names]
    )
    found, seen = evaluated_images(tmp_path / "results", monkeypatch, **changes)
    assert dump(found) == dump(evaluated(tmp_path / "scratch", **changes))
    if names[:2] == ("a", "b") and len(names) % 2 == 0:
        assert (0, 2) not in seen


def test_a_folder_that_grows(tmp_path, monkeypatch):
    root = picture_folder(tmp_path / "folder", 4)
    changes = SMALL | {"data": {"kind": "folder", "root": str(root), "size": 24}}
    evaluated(tmp_path / "results", **changes)
    picture_folder(root, 6)
    found, seen = evaluated_images(tmp_path / "results", monkeypatch, **changes)
    assert dump(found) == dump(evaluated(tmp_path / "scratch", **changes))
    assert (0, 2) not in seen  # ants 0 and 2, which are still the first


def test_annotations_that_changed(tmp_path):
    voc = SMALL | {"data": {"kind": "voc", "root": str(voc_tree(tmp_path)), "size": 24}}
    coco = SMALL | {"data": coco_tree(tmp_path / "coco")}
    for name, changes in (("voc", voc), ("coco", coco)):
        evaluated(tmp_path / name, **changes)
    annotation = tmp_path / "VOCdevkit" / "VOC2007" / "Annotations" / "000003.xml"
    annotation.write_text(annotation.read_text().replace("<xmin>1<", "<xmin>2<"))
    with pytest.raises(ResultsError, match=r"image 3 .*'000003.jpg'.* has changed"):
        evaluated(tmp_path / "voc", **voc)
    file = Path(coco["data"]["file"])
    annotations = json.loads(file.read_text())
    annotations["annotations"][-1]["category_id"] = 3
    file.write_text(json.dumps(annotations))
    with pytest.raises(ResultsError, match=r"image 3 .*'3.png'.* has changed"):
        evaluated(tmp_path / "coco", **coco)


def test_a_data_set_of_one_s_own_that_changed(tmp_path):
    file = tmp_path / "data.py"
    code = (
        "import torch\n"
        "def data(classes=3):\n"
        "    seeds = [torch.Generator().manual_seed(i) for i in range(4)]\n"
        "    return [(torch.randn(3, 8, 8, generator=seed), i % classes) for i, seed in enumerate(seeds)]\n"
    )
    file.write_text(code)
    changes = SMALL | {"data": {"kind": "custom", "dataset": f"{file}:data"}}
    evaluated(tmp_path / "results", **changes)
    file.write_text(code.replace("return", "return  "))
    assert evaluated(tmp_path / "results", **changes).complete  # it gives the same
    for edit in (("manual_seed(i)", "manual_seed(i + (i == 3))"), ("i % classes", "i // 3")):
        file.write_text(code.replace(*edit))
        with pytest.raises(ResultsError, match=r"image [123] of '.*data.py:data' .*has changed"):
            evaluated(tmp_path / "results", **changes)
    file.write_text(code)
    with pytest.raises(ResultsError, match=r"image 2 .*has changed"):
        evaluated(tmp_path / "results", **changes | {"data": changes["data"] | {"arguments": {"classes": 2}}})
