"""Every table and figure by name."""

import inspect

from typer.testing import CliRunner

from captum_extract_aggregate.cli import app
from captum_extract_aggregate.reproduction import EXPERIMENTS
from captum_extract_aggregate.reproduction.published import PUBLISHED

NUMBERED = {entry.experiment for entry in PUBLISHED if entry.experiment}
FURTHER = {
    "r20-combinations",
    "r20-grid",
    "r20-localisation",
    "r20-grid-pointing",
    "g20-decision-flips",
    "g20-bias-delta-plus",
    "g20-others",
}


def test_every_figure_and_table_is_there_or_said_not_to_be():
    assert set(EXPERIMENTS) == NUMBERED | FURTHER
    listed = CliRunner().invoke(app, ["reproduce", "list"])
    assert listed.exit_code == 0
    lines = listed.output.splitlines()
    assert lines[0] == "51 of the papers' 54 figures and tables, and 7 further experiments:"
    assert [line.split()[0] for line in lines[1 : 1 + len(EXPERIMENTS)]] == list(EXPERIMENTS)
    assert all("not reproduced" in line for line in lines[1 + len(EXPERIMENTS) :])
    assert len(lines) == 1 + len(EXPERIMENTS) + 3


def test_a_title_is_the_first_line_of_what_is_run():
    for name, experiment in EXPERIMENTS.items():
        assert experiment.title == inspect.getdoc(experiment.run).splitlines()[0], name
        assert name.partition("-")[2] == experiment.run.__name__.replace("_", "-")


def test_which_need_known_objects():
    pointing = {"r20-table3", "r20-table5", "r20-table6", "r20-fig3", "r20-combinations", "r20-localisation"}
    pointing |= {"k20-table1", "k20-table3"}
    assert {name for name, experiment in EXPERIMENTS.items() if experiment.needs_objects} == pointing
