"""The images of a plan, of every kind, and those that cannot be read."""

import pytest

from captum_extract_aggregate.evaluation import Results
from tests.evaluation import plans
from tests.evaluation.explaining import close, values
from tests.evaluation.plans import (
    HERE,
    POINTING,
    dump,
    of,
    picture_folder,
    voc_tree,
)
from tests.evaluation.wrong_plans import check_refused, data


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
