"""`insights`: which page opens, and which pictures and classes it is given."""

import importlib.util

import pytest
import torch

from captum_extract_aggregate import insights, live
from captum_extract_aggregate.data import DigitScenes
from tests.cli.files import MINE


@pytest.fixture
def given(monkeypatch):
    """What `insights.serve` is called with, in its place."""
    found = {}

    def serve(model, classes, dataset, mean, std, method, port, blocking):
        found.update(classes=classes, dataset=dataset, mean=mean, std=std, method=method, port=port, blocking=blocking)

    monkeypatch.setattr(insights, "serve", serve)
    return found


def test_pictures_of_the_user_s_own(invoke, picture, tmp_path, given):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    options = (
        "--captums",
        "--model",
        "mine.py:build",
        "--class-names",
        "names.txt",
        "--method",
        "gradcam",
        "--port",
        8123,
    )
    result = invoke("insights", picture, picture, *options)
    assert result.exit_code == 0, result.output
    assert given["classes"] == ["ant (0)", "bee (1)"]
    assert [x.shape for x in given["dataset"]] == [(3, 224, 224)] * 2
    assert (given["method"], given["port"], given["blocking"]) == ("gradcam", 8123, True)


def test_scenes_where_there_are_no_pictures(invoke, given):
    assert invoke("insights", "--captums").exit_code == 0
    assert torch.equal(given["dataset"][0][0], DigitScenes(1)[0][0])
    assert given["classes"] == [str(digit) for digit in range(10)]
    assert given["port"] is None  # a free one


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "mine.py:build"], "model is 'mine.py:build', but there is no picture to explain; expected IMAGES"),
        (["picture.png", "--model", "mine.py:build", "--class-names", "three.txt"], "which has 3 names, but the model"),
        (["nothing.png"], "there is no file 'nothing.png'"),
    ],
)
def test_wrong_files_and_values(arguments, message, refused, given):
    assert message in refused("insights", "--captums", *arguments)
    assert not given


@pytest.fixture
def given_live(monkeypatch):
    """What `live.serve` is called with, in its place."""
    found = {}
    monkeypatch.setattr(
        live, "serve", lambda model, images, **options: found.update(options, model=model, images=images)
    )
    return found


def test_the_live_page_where_captum_has_none(invoke, picture, given, given_live, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # as on captum 0.9
    result = invoke("insights", picture, "--model", "resnet18", "--weights", "random", "--port", 8123)
    assert result.exit_code == 0, result.output
    assert (given_live["model"], given_live["images"], given_live["weights"]) == ("resnet18", [picture], "random")
    assert given_live["port"] == 8123
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())  # as on captum 0.8
    assert invoke("insights").exit_code == 0
    assert given["port"] is None
    given_live.clear()
    assert invoke("insights", "--live").exit_code == 0
    assert given_live["model"] is None
    assert not given_live["images"]


def test_weights_of_no_model(refused, given_live):
    assert "expected --model" in refused("insights", "--live", "--weights", "DEFAULT")
    assert not given_live
