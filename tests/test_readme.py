"""What the README shows runs."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import captum_extract_aggregate as cea
from captum_extract_aggregate import bias_study, metrics
from captum_extract_aggregate.attr.extract_aggregate.aggregate import AGGREGATES
from captum_extract_aggregate.attr.extract_aggregate.extract import virtual_extract
from captum_extract_aggregate.attr.method_table import is_of_gradients, method_table
from captum_extract_aggregate.cli import app

# What the functions return, and their tables: described in their docstrings.
RESULTS = (
    "Comparison Comparisons InputAttribution NullBaseline Randomization Removal RemovalContrast SIMILARITIES "
    "AggregatedAttributions PerturbationCurve Stability SymmetricRelevanceGain "
    "BiasReport DecayStep DecayedBiases InputRobustness RobustnessRow".split()
)
COLUMNS = ("class", "weights", "extract", "aggregate", "sign")
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ("beside_captum", "methods/tables", "measures", "howto/command_line", "howto/plans", "bias_study", "api/data")
SHOWN = "\n".join([README, *((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8") for page in PAGES)])


def test_python_snippets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save("dog.jpg")
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    assert 'weights="DEFAULT"' in code
    code = code.replace("resnet50", "resnet18")  # whose layers have the same names and sizes
    code = code.replace('"dog.jpg", weights="DEFAULT"', '"dog.jpg", weights="random"')
    names = {"x": torch.randn(1, 3, 224, 224)}
    with warnings.catch_warnings():  # it shows no use that is warned of
        warnings.filterwarnings("error", message=".*does not depend on the class")
        exec(code.replace('weights="DEFAULT"', "weights=None"), names)
    assert names["new"].shape == names["old"].shape == (1, 1, 14, 14)
    assert names["both"].shape == (1, 2, 1, 14, 14)
    assert [tuple(m.shape) for m in names["four"]] == [(1, 1, side, side) for side in (56, 28, 14, 7)]
    assert {path.name for path in tmp_path.iterdir()} == {"dog.jpg", "maps.png", "maps.html"}


def test_every_public_name_and_every_cell_of_the_tables():
    for name in cea.__all__:
        assert f"{name}" in SHOWN, name
        assert getattr(cea, name).__doc__, name
    for name in metrics.__all__:
        assert f"`{name}`" in SHOWN or name in RESULTS, name
        assert getattr(metrics, name).__doc__, name
    for name in bias_study.__all__:
        assert f"{name}" in SHOWN or name in RESULTS, name
        assert getattr(bias_study, name).__doc__, name
    for name in AGGREGATES:
        assert f'`"{name}"`' in SHOWN, name
    for name in ("bias", "scaling", "conv1x1", "conv3x3", "conv5x5", "depthwise3x3"):
        assert f'`"{name}"`' in SHOWN, name
        assert callable(virtual_extract(name))


def test_the_table_of_methods_is_the_registrys():
    """To make it anew: print(method_table(COLUMNS, is_of_gradients))."""
    assert f"\n\n{method_table(COLUMNS, is_of_gradients)}\n\n" in SHOWN


def test_command_lines_that_need_no_photograph(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^captum-extract-aggregate (explain[^#\n]*)", SHOWN, re.MULTILINE)
    alone = [line.split() for line in lines if "photo" not in line]
    assert len(alone) == 2
    for arguments in alone:
        assert CliRunner().invoke(app, arguments).exit_code == 0


@pytest.mark.parametrize("command", ["explain", "choose", "insights", "evaluate", "report", "reproduce", "bias-report"])
def test_the_options_it_names_exist(command):
    help_text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    lines = re.findall(rf"^captum-extract-aggregate {command} .*$", SHOWN, re.MULTILINE)
    assert lines
    for option in set(re.findall(r"(--[a-z-]+)", " ".join(lines))):
        assert option in help_text, option


def test_the_plan_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (plan,) = re.findall(r"^```toml\n(.*?)```", SHOWN, re.DOTALL | re.MULTILINE)
    assert "n = 100" in plan
    (tmp_path / "plan.toml").write_text(plan.replace("n = 100", "n = 4"))
    done = CliRunner().invoke(app, ["evaluate", "plan.toml"])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["report", "plan-results", "--images", "0,2"])
    assert done.exit_code == 0, done.output
    assert "maps.html" in done.output
    assert (tmp_path / "plan-results" / "report" / "report.md").is_file()
