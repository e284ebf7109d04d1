"""`reproduce`: names, settings, errors, and small runs of each kind of experiment."""

import math
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from captum_extract_aggregate import reproduction
from captum_extract_aggregate.cli import app
from captum_extract_aggregate.evaluation import DataPlan, ModelPlan
from captum_extract_aggregate.reproduction import (
    EXPERIMENTS,
    Outcome,
    Request,
    Setting,
    carry_out,
    main_findings,
    reproduce,
    settings_of,
)
from captum_extract_aggregate.reproduction.setting import network_blocks
from tests.conftest import REAL_DATA, needs_real_data

PUBLISHED = """
r20-table3 r20-table4 r20-table6 r20-fig3 r20-fig5 r20-fig6 r20-fig7 r20-fig8 r20-fig10 r20-fig12 r20-fig15
k20-table1 k20-table2 k20-table3 k20-table4 k20-fig1 k20-fig4
g20-fig2 g20-fig5 g20-fig6 g20-fig12 g20-fig14 g20-fig15 g20-fig16
g20-bias-removal g20-robustness g20-bias-decay
""".split()


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproduction")
    sizes = {"maps": 5, "stages": 3, "removal": 4}
    data = DataPlan("scenes", n=16, seed=5)
    return Setting(
        "scene-resnet",
        ModelPlan("scene-resnet"),
        data,
        folder,
        tolerance=4,
        step=1024,
        sizes=sizes,
        show_progress=False,
    )


def test_all_are_there():
    assert list(EXPERIMENTS) == PUBLISHED
    listed = CliRunner().invoke(app, ["reproduce", "list"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in PUBLISHED)


QUICK = ("r20-table4", "r20-fig8", "r20-fig15", "k20-table1", "k20-table2", "k20-fig4", "g20-fig5", "g20-bias-removal")


# The others, and those on more images, are what `reproduce all --quick` runs.
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in PUBLISHED if n != "r20-fig10"]
)
def test_every_experiment_gives_tables_findings_or_pictures(name, setting):
    outcome = carry_out(name, setting)
    assert outcome.tables or outcome.pictures
    assert all(path.stat().st_size > 1000 for path in outcome.pictures)
    for finding in outcome.findings:
        assert finding.statement
        assert finding.holds is None or finding.n > 0, finding
        assert math.isnan(finding.p) or 0 <= finding.p <= 1


def test_what_cannot_be_tested_is_said(setting):
    blind = replace(setting, has_objects=False)
    (finding,) = carry_out("r20-table3", blind).findings
    assert finding.holds is None
    assert carry_out("r20-fig6", blind).tables


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["r20-tabel3"], "did you mean 'r20-table3'"),
        (["r20-table3", "--data", "vox"], "did you mean 'voc'"),
        (["r20-table3", "--data", "voc"], "needs --root and --model"),
        (["r20-table3", "--model", "resnet18"], "bring their own"),
        (["r20-table3", "--data", "voc", "--root", "nowhere", "--model", "resnet18", "--weights", "random"], "nowhere"),
    ],
)
def test_mistakes_are_one_clear_line(arguments, message, tmp_path):
    result = CliRunner().invoke(app, ["reproduce", *arguments, "--output", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


def test_a_finding_that_turns_around_fails(monkeypatch, tmp_path):
    request = Request(("k20-fig1",), output=tmp_path, quick=True, show_progress=False)
    monkeypatch.setattr(main_findings, "measure", lambda what, setting: 1000.0)
    monkeypatch.setattr(reproduction, "carry_out", lambda name, setting: Outcome())
    _, stands = reproduce(request)
    assert stands
    monkeypatch.setattr(main_findings, "measure", lambda what, setting: -1.0)
    text, stands = reproduce(request)
    assert not stands
    assert "HAS TURNED AROUND" in text


def test_the_same_twice_comes_from_what_is_kept(setting):
    first = carry_out("k20-table2", setting)
    results = sorted((setting.folder / "results").iterdir())
    assert carry_out("k20-table2", setting).tables == first.tables
    assert sorted((setting.folder / "results").iterdir()) == results


def test_blocks_cover_every_parameter():
    for setting in settings_of(Request(("all",))):
        blocks = [setting.network.get_submodule(name) for name in setting.stages]
        assert blocks == network_blocks(setting.network)
        held = {id(p) for block in blocks for p in block.parameters()}
        assert held == {id(p) for p in setting.network.parameters()}


@pytest.mark.slow
@needs_real_data
def test_real_data(tmp_path):
    layers = ("features.8", "features.12")
    request = Request(
        ("r20-fig3", "k20-table1"),
        "voc",
        REAL_DATA,
        "squeezenet1_1",
        str(REAL_DATA / "models/squeezenet1_1-imagenet.pth"),
        str(REAL_DATA / "models/squeezenet1_1-voc-head.pth"),
        layers,
        n=6,
        output=tmp_path,
        show_progress=False,
    )
    text, _ = reproduce(request)
    assert "r20-fig3 on voc-squeezenet1_1" in text
    section = (tmp_path / "k20-table1-voc-squeezenet1_1.md").read_text()
    assert "restricted" in section


def test_the_network_is_as_it_was(setting):
    before = {name: value.clone() for name, value in setting.network.state_dict().items()}
    carry_out("r20-fig8", setting)
    assert all(torch.equal(before[name], value) for name, value in setting.network.state_dict().items())
