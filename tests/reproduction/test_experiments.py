"""Every table and figure by name."""

import inspect

from typer.testing import CliRunner

from captum_extract_aggregate.cli import app
from captum_extract_aggregate.reproduction import EXPERIMENTS

PUBLISHED = """
r20-table3 r20-table4 r20-table6 r20-fig3 r20-fig5 r20-fig6 r20-fig7 r20-fig8 r20-fig10 r20-fig12 r20-fig15
k20-table1 k20-table2 k20-table3 k20-table4 k20-fig1 k20-fig4
g20-fig2 g20-fig5 g20-fig6 g20-fig12 g20-fig14 g20-fig15 g20-fig16
g20-bias-removal g20-robustness g20-bias-decay
""".split()


def test_all_are_there():
    assert list(EXPERIMENTS) == PUBLISHED
    listed = CliRunner().invoke(app, ["reproduce", "list"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in PUBLISHED)


def test_a_title_is_the_first_line_of_what_is_run():
    for name, experiment in EXPERIMENTS.items():
        assert experiment.title == inspect.getdoc(experiment.run).splitlines()[0], name
        assert experiment.run.__name__ in name.replace("bias-", "")


def test_which_need_known_objects():
    pointing = {"r20-table3", "r20-table6", "r20-fig3", "r20-fig5", "k20-table1", "k20-table3"}
    assert {name for name, experiment in EXPERIMENTS.items() if experiment.needs_objects} == pointing
