"""What biases do: small experiments run, and what the command line is told."""

import csv

import pytest
import torch

from captum_extract_aggregate.bias_study import bias_report, remove_biases
from captum_extract_aggregate.reproduction import biases, carry_out
from captum_extract_aggregate.reproduction.biases import fig3, fig_s3, fig_s4, fig_s5, robustness_of, told
from tests.reproduction.outcomes import cells, check_outcome, names


@pytest.mark.parametrize("name", names(biases))
def test_small_experiments_give_tables_findings_or_pictures(name, setting):
    check_outcome(carry_out(name, setting))


def test_the_table_says_what_a_bias_report_says(setting):
    n = setting.sizes["maps"]
    report = bias_report(setting.network, setting.batches(n), show_progress=False)
    outcome = fig3(setting)
    table = cells(outcome.tables[0])
    assert table["as trained"][:2] == [str(report.n), str(report.biases)]
    assert table["without"][5] == f"{100 * float(report.same_decision.nanmean()):.1f} %"
    (lost,) = outcome.findings  # of a network with BatchNorm
    assert lost.effect == f"{1 - float(report.same_decision.nanmean()):.2f}"
    (correlate,) = fig_s4(setting).findings
    assert correlate.effect == f"{float(report.correlation.nanmean()):.2f}"
    (slope,) = fig_s5(setting).findings
    assert slope.effect.startswith(f"{float(report.slope.nanmean()):.2f} against 1.00")
    (cost,) = fig_s3(setting).findings
    assert cost.effect == f"{float((report.top1_without - report.top1).nanmean()):.2f}"


def test_robustness_is_of_pixel_values(setting):
    """Without biases no scale of the normalised input matters; the pixels' does, as their mean is taken off."""
    found = robustness_of(setting, 5, few=True)
    mean, std = setting.normalisation
    bare = remove_biases(setting.network)
    x = torch.cat([x for x, _ in setting.batches(5)])
    m, s = (torch.tensor(v).reshape(1, -1, 1, 1) for v in (mean, std))
    with torch.no_grad():
        wanted = bare(((x * s + m) * 0.1 - m) / s).argmax(1) == bare(x).argmax(1)
    assert found["without biases"].scales[0].same_decision.tolist() == wanted.double().tolist()


def test_what_the_command_line_tells(setting, tmp_path):
    text = told(setting, 5, False, tmp_path / "out")
    report = bias_report(setting.network, setting.batches(5), show_progress=False)
    path = tmp_path / "out" / "bias-report-scene-resnet.csv"
    assert text == f"scene-resnet: {report}\nwritten: {path}"
    with path.open() as file:
        assert len(list(csv.reader(file))) == 1 + 5
