"""`report`: what it refuses."""

import pytest

from tests.cli.files import PLAN


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["file"], "'file' holds no results"),
        (["nowhere"], "'nowhere' holds no results"),
    ],
)
def test_wrong_files_and_values(arguments, message, refused):
    assert message in refused("report", *arguments)


def test_a_report_of_what_an_evaluation_wrote(invoke, tmp_path):
    """Anew from the results alone, where it is asked for; the same bytes as `evaluate` wrote."""
    (tmp_path / "plan.toml").write_text(PLAN)
    assert invoke("evaluate", "plan.toml", "--results", "found").exit_code == 0
    result = invoke("report", "found", "--output", "elsewhere", "--images", "1")
    assert result.exit_code == 0, result.output
    told = [tmp_path / line.removeprefix("written: ") for line in result.output.splitlines()]
    assert all(path.is_file() for path in told)
    assert tmp_path / "elsewhere" / "maps.html" in told
    assert (tmp_path / "elsewhere" / "summary.csv").read_bytes() == (
        tmp_path / "found" / "report" / "summary.csv"
    ).read_bytes()
