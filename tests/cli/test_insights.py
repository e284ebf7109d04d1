"""`insights`: which pictures and classes its page is given."""

import pytest
import torch

from captum_extract_aggregate import insights
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
    options = ("--model", "mine.py:build", "--class-names", "names.txt", "--method", "gradcam", "--port", 8123)
    result = invoke("insights", picture, picture, *options)
    assert result.exit_code == 0, result.output
    assert given["classes"] == ["ant (0)", "bee (1)"]
    assert [x.shape for x in given["dataset"]] == [(3, 224, 224)] * 2
    assert (given["method"], given["port"], given["blocking"]) == ("gradcam", 8123, True)


def test_scenes_where_there_are_no_pictures(invoke, given):
    assert invoke("insights").exit_code == 0
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
    assert message in refused("insights", *arguments)
    assert not given
