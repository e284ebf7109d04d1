"""The images of a plan, of every kind, and those that cannot be read."""

import pytest
import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate.evaluation import Results
from captum_extract_aggregate.metrics import (
    class_sensitivity,
)
from tests.evaluation import plans
from tests.evaluation.explaining import Summed, close, values
from tests.evaluation.plans import (
    HERE,
    POINTING,
    coco_tree,
    dump,
    evaluated,
    of,
    picture_folder,
    voc_tree,
)
from tests.evaluation.wrong_plans import check_refused, data


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


def test_images_of_several_sizes_in_a_batch(tmp_path):
    root = str(voc_tree(tmp_path))
    together, alone = (
        of(tmp_path / str(n), {"kind": "voc", "root": root, "size": 24}, measures=POINTING, run={"batch_size": n})
        for n in (6, 1)
    )
    assert [row[:6] for row in together.rows("pointing_game")] == [row[:6] for row in alone.rows("pointing_game")]
    assert close(values(together, "class_sensitivity"), values(alone, "class_sensitivity"), 1e-3)
    assert together.maps() == alone.maps()


@pytest.mark.parametrize("broken", [(1,), (0, 1), (0, 3, 5), (0, 1, 2, 3, 4)])
def test_unreadable_images(broken, tmp_path):
    data = {"kind": "voc", "root": str(voc_tree(tmp_path, broken)), "size": 24}
    with pytest.raises(ValueError, match=rf'image {broken[0]} cannot be read: .* with on_error = "skip"') as caught:
        of(tmp_path / "stop", data, measures=POINTING)
    assert "\n" not in str(caught.value)
    results = of(tmp_path / "skip", data, measures=POINTING, run={"batch_size": 2, "on_error": "skip"})
    assert [row.image for row in results.skipped()] == list(broken)
    assert all("cannot be read" in row.skipped for row in results.skipped())
    assert results.complete
    assert {row.image for row in results.rows("class_sensitivity")} == set(range(6)) - set(broken)
    assert {row.image for row in results.targets().values()} == set(range(6)) - set(broken)


def test_all_images_unreadable(tmp_path):
    data = {"kind": "voc", "root": str(voc_tree(tmp_path, range(6))), "size": 24}
    with pytest.raises(ValueError, match="none of the first images can be read"):
        of(tmp_path, data, run={"on_error": "skip"})
    assert not (tmp_path / "results").exists()


def test_stopped_at_an_unreadable_image_and_mended(tmp_path):
    data = {"kind": "voc", "root": str(voc_tree(tmp_path, (4,))), "size": 24}
    with pytest.raises(ValueError, match="image 4 cannot be read"):
        of(tmp_path, data)
    assert len(Results(tmp_path / "results").images()) == 4
    voc_tree(tmp_path)
    assert dump(of(tmp_path, data)) == dump(of(tmp_path / "whole", data))


@pytest.mark.parametrize("error", ["OSError", "RuntimeError", "KeyError"])
@pytest.mark.parametrize("broken", [0, 2])
def test_ones_own_data_set_fails(error, broken, tmp_path):
    arguments = {"count": 4, "broken": [broken], "error": error}
    data = {"kind": "custom", "dataset": f"{HERE}:tensors", "arguments": arguments}
    results = of(tmp_path / "skip", data, run={"batch_size": 2, "on_error": "skip"})
    assert [row.image for row in results.skipped()] == [broken]
    assert len(results.rows("class_sensitivity", layer="conv1")) == 3
    with pytest.raises(ValueError, match=f"image {broken} cannot be read.*is damaged"):
        of(tmp_path / "stop", data)


def test_objects_of_some_images_only(tmp_path, monkeypatch):
    """The first image has objects, and the second a class index alone."""
    item = plans.WithPairs.__getitem__
    (tmp_path / "mixed.py").write_text(
        "from tests.evaluation.plans import WithPairs\n"
        "class Mixed(WithPairs):\n"
        "    def __getitem__(self, i):\n"
        "        x, pairs = super().__getitem__(i)\n"
        "        return x, pairs if i != 1 else 2\n"
        "def mixed(): return Mixed(3)\n"
    )
    data = {"kind": "custom", "dataset": f"{tmp_path / 'mixed.py'}:mixed"}
    results = of(tmp_path, data, measures=POINTING, run={"on_error": "skip"})
    assert {row.image for row in results.rows("pointing_game")} == {0, 2}
    assert item is plans.WithPairs.__getitem__


WRONG = {
    "an unknown split": (data(split="tests"), "split is 'tests'"),
    "a size of the scenes": (data(size=64), "data.size is 64, but does not apply to data of the kind 'scenes'"),
    "a mean of the scenes": (data(mean=[0.5]), "data.mean is .* does not apply to data of the kind 'scenes'"),
    "a root of the scenes": (data(root="."), "data.root is '.', but does not apply .*left out"),
    "a seed of a folder": (data(kind="folder", root=".", seed=1), "data.seed is 1, but does not apply"),
    "a split of a list": (data(kind="list", file="x", split="train"), "data.split is 'train', but does not apply"),
    "a root of one's own": (data(kind="custom", dataset="a:b", root="."), "data.root is '.', but does not apply"),
    "VOC that is not there": (data(kind="voc", root="nowhere"), "'voc' cannot be opened with root 'nowhere'"),
    "a year that VOC has not": (data(kind="voc", root="nowhere", year="1999"), "cannot be opened.*1999"),
    "COCO that is not there": (data(kind="coco", root="nowhere", file="nowhere.json"), "'coco' cannot be opened"),
    "a folder that is not there": (data(kind="folder", root="nowhere"), "'folder' cannot be opened"),
    "a list that is not there": (data(kind="list", file="nowhere.txt"), "'nowhere.txt', and there is no such file"),
    "a data set's file that is not there": (data(kind="custom", dataset="nowhere.py:d"), "no file 'nowhere.py'"),
    "an argument that a data set has not": (
        data(kind="custom", dataset=f"{HERE}:tensors", arguments={"number": 3}),
        "failed: .*unexpected keyword argument 'number'",
    ),
    "a data set that is none": (data(kind="custom", dataset=f"{HERE}:no_net"), "image 0 cannot be read|a str"),
    "an empty data set": (data(kind="custom", dataset=f"{HERE}:tensors", arguments={"count": 0}), "there are 0 images"),
    "a start behind the end": (
        data(kind="custom", dataset=f"{HERE}:tensors", start=4),
        "data.start is 4, but there are 4 images",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_data(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_refused(*WRONG[case], tmp_path)


def test_files_that_are_no_data(tmp_path):
    def file(name, text):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    (tmp_path / "empty").mkdir()
    folder = str(picture_folder(tmp_path / "folder"))
    for plain, message in (
        (data(kind="folder", root=str(tmp_path / "empty")), "'folder' cannot be opened"),
        (data(kind="list", file=file("empty.txt", "\n\n")), "there are 0 images"),
        (data(kind="list", file=file("bad.txt", "a.png\t1\nb.png\tdog\n")), r"line 2 of .*bad.txt' is 'b.png\\tdog'"),
        (data(kind="list", file=file("gone.txt", "gone.png\t1\n")), "none of the first images can be read; .*gone.png"),
        (data(kind="coco", root=folder, file=file("no.json", "{")), "'coco' cannot be opened"),
        (data(kind="coco", root=folder, file=file("list.json", "[]")), "'coco' cannot be opened"),
        (data(kind="coco", root=folder, file=file("empty.json", "{}")), "'coco' cannot be opened"),
    ):
        check_refused(plain, message, tmp_path)
