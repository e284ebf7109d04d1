"""`evaluate`: a plan carried out, and its report."""

import csv

import pytest

from tests.cli.files import PLAN
from tests.evaluation.plans import interrupt_at


def test_an_evaluation_twice_and_cells_that_are_no_formulas(invoke, tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    first = invoke("evaluate", "plan.toml")
    assert first.exit_code == 0, first.output
    again = invoke("evaluate", "plan.toml")
    assert "nothing to do: 2 results of 20" in again.output
    for file in ("summary.csv", "rows-sum.csv"):
        rows = list(csv.DictReader((tmp_path / "plan-results" / "report" / file).open()))
        assert {(row["method"], row["measure"]) for row in rows} == {("'=cmd()", "'@sum")}
        assert all(float(row.get("value", row.get("mean"))) <= 1 for row in rows)


def test_ctrl_c_says_what_is_kept_and_the_same_command_goes_on(invoke, tmp_path, monkeypatch):
    (tmp_path / "plan.toml").write_text(PLAN.replace("n = 2", "n = 5") + "run = {batch_size = 2}\n")
    interrupt_at(monkeypatch, 2)
    stopped = invoke("evaluate", "plan.toml")
    assert stopped.exit_code == 130
    first, *_, last = stopped.stderr.splitlines()
    assert first == "Evaluation: 0 of 5 images"
    assert last == "stopped: 2 of 5 images are stored in 'plan-results'; run it again to go on"
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    again = invoke("evaluate", "plan.toml")
    assert again.exit_code == 0, again.output
    assert again.stderr.startswith("Evaluation: 0 of 3 images")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["deep.toml"], "plan 'deep.toml' is not TOML"),
        (["latin.toml"], "plan 'latin.toml' is not TOML"),
        (["/proc/kmsg"], "plan is '/proc/kmsg', and there is no such file"),
        ([""], "plan is '.', and there is no such file"),
        (["plan.toml", "--results", "file"], "results is 'file'; expected a folder"),
        (["plan.toml", "--results", "file/below"], "results is 'file/below'; expected a folder"),
        (["plan.toml", "--results", "/proc/results"], "results is '/proc/results'; expected a folder"),
        (["plan.toml", "--images", "one"], "images is 'one'"),
    ],
)
def test_wrong_files_and_values(arguments, message, refused):
    assert message in refused("evaluate", *arguments)
