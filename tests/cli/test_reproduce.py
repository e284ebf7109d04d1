"""`reproduce`: what it refuses."""

import pytest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["g20-robustness", "--n", "-1"], "n is -1; expected 0"),
        (["g20-robustness", "--output", "file"], "output is 'file'; expected a folder"),
        (["g20-robustnes"], "did you mean 'g20-robustness'"),
    ],
)
def test_wrong_files_and_values(arguments, message, refused):
    assert message in refused("reproduce", *arguments)
