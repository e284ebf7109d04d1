"""`bias-report`: a network with biases and without."""

import pytest
from typer.testing import CliRunner

from captum_extract_aggregate.cli import app


def test_bias_report(tmp_path):
    folder = tmp_path / "out"
    result = CliRunner().invoke(app, ["bias-report", "--n", "6", "--robustness", "--output", str(folder)])
    assert result.exit_code == 0, result.output
    assert "scene-vgg: 522 biases beside 294522 parameters" in result.stdout
    assert "scene-resnet: 634 biases" in result.stdout
    assert "input times 1000" in result.stdout
    assert sorted(path.name for path in folder.iterdir()) == [
        *("bias-report-scene-resnet.csv", "bias-report-scene-vgg.csv"),
        *("robustness-scene-resnet.png", "robustness-scene-vgg.png"),
    ]
    header, *rows = (folder / "bias-report-scene-vgg.csv").read_text().splitlines()
    assert header == "image,top1,top1_without,top5,top5_without,same_decision,correlation,slope,intercept"
    assert [row.split(",")[0] for row in rows] == list("012345")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--n", "0"], "n is 0; expected 1 or more"),
        (["--data", "scense"], "did you mean 'scenes'"),
        (["--data", "imagenet"], "needs --root and --model"),
    ],
)
def test_bias_report_mistakes(arguments, said):
    result = CliRunner().invoke(app, ["bias-report", *arguments])
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n", "2", "--output", "file"], "output is 'file'; expected a folder"),
        (["--data", "imagenet", "--root", "/proc", "--model", "mine.py:build"], "/proc"),
        (
            ["--data", "imagenet", "--root", "list", "--model", "mine.py:build", "--head", "w.pth"],
            "head 'w",
        ),
    ],
)
def test_wrong_files_and_values(arguments, message, refused):
    assert message in refused("bias-report", *arguments)
