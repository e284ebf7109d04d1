"""What biases do: small experiments run, and what the command line is told."""

import csv

import pytest

from captum_extract_aggregate.bias_study import bias_report
from captum_extract_aggregate.reproduction import biases, carry_out
from captum_extract_aggregate.reproduction.biases import removal, told
from tests.reproduction.outcomes import cells, check_outcome, names


@pytest.mark.parametrize("name", names(biases))
def test_small_experiments_give_tables_findings_or_pictures(name, setting):
    check_outcome(carry_out(name, setting))


def test_the_table_says_what_a_bias_report_says(setting):
    n = 10 * setting.sizes["maps"]
    report = bias_report(setting.network, setting.batches(n), show_progress=False)
    outcome = removal(setting)
    table = cells(outcome.tables[0])
    assert table["as trained"][:2] == [str(report.n), str(report.biases)]
    assert table["without"][5] == f"{100 * float(report.same_decision.nanmean()):.1f} %"
    correlate, *_ = outcome.findings
    assert correlate.effect.startswith(f"{float(report.correlation.nanmean()):.2f} against 0.00")


def test_what_the_command_line_tells(setting, tmp_path):
    text = told(setting, 5, False, tmp_path / "out")
    report = bias_report(setting.network, setting.batches(5), show_progress=False)
    path = tmp_path / "out" / "bias-report-scene-resnet.csv"
    assert text == f"scene-resnet: {report}\nwritten: {path}"
    with path.open() as file:
        assert len(list(csv.reader(file))) == 1 + 5
