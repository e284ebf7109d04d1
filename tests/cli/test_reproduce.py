"""`reproduce`: what it refuses."""

import pytest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["g20-fig-s1", "--n", "-1"], "n is -1; expected 0"),
        (["g20-fig-s1", "--output", "file"], "output is 'file'; expected a folder"),
        (["g20-decision-flip"], "did you mean 'g20-decision-flips'"),
    ],
)
def test_wrong_files_and_values(arguments, message, refused):
    assert message in refused("reproduce", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["r20-tabel3"], "did you mean 'r20-table3'"),
        (["r20-table3", "--data", "vox"], "did you mean 'voc'"),
        (["r20-table3", "--data", "voc"], "needs --root and --model"),
        (["r20-table3", "--data", "coco", "--root", ".", "--model", "resnet18"], "needs --annotations"),
        (["r20-table3", "--model", "resnet18"], "bring their own"),
        (["r20-table3", "--data", "voc", "--root", "nowhere", "--model", "resnet18", "--weights", "random"], "nowhere"),
    ],
)
def test_mistakes_are_one_clear_line(arguments, message, invoke):
    result = invoke("reproduce", *arguments, "--output", "out")
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
