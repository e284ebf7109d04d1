"""What the README shows runs."""

import re
from pathlib import Path

import torch
from typer.testing import CliRunner

import captum_extract_aggregate as cea
from captum_extract_aggregate import metrics
from captum_extract_aggregate.aggregate import AGGREGATES
from captum_extract_aggregate.cli import app
from captum_extract_aggregate.extract import virtual_extract

# What the functions return, and their tables: described in their docstrings.
RESULTS = (
    "Comparison Comparisons InputAttribution NullBaseline Randomization Removal RemovalContrast SIMILARITIES".split()
)
README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_python_snippets():
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    assert 'weights="DEFAULT"' in code
    names = {"x": torch.randn(1, 3, 224, 224)}
    exec(code.replace('weights="DEFAULT"', "weights=None"), names)
    assert names["new"].shape == names["old"].shape == (1, 1, 7, 7)
    assert [tuple(m.shape) for m in names["maps"]["NormGrad"]] == [(1, 1, side, side) for side in (56, 28, 14, 7)]


def test_every_public_name_and_every_cell_of_the_tables():
    for name in cea.__all__:
        assert f"{name}" in README, name
        assert getattr(cea, name).__doc__, name
    for name in metrics.__all__:
        assert f"`{name}`" in README or name in RESULTS, name
        assert getattr(metrics, name).__doc__, name
    for name in AGGREGATES:
        assert f'`"{name}"`' in README, name
    for name in ("bias", "scaling", "conv1x1", "conv3x3", "conv5x5", "depthwise3x3"):
        assert f'`"{name}"`' in README, name
        assert callable(virtual_extract(name))


def test_command_lines_that_need_no_photograph(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^captum-extract-aggregate (explain[^#\n]*)", README, re.MULTILINE)
    alone = [line.split() for line in lines if "photo" not in line]
    assert len(alone) == 2
    for arguments in alone:
        assert CliRunner().invoke(app, arguments).exit_code == 0


def test_the_options_it_names_exist():
    help_text = CliRunner().invoke(app, ["explain", "--help"], env={"COLUMNS": "200"}).output
    for option in set(re.findall(r"(--[a-z-]+)", "".join(re.findall(r"^captum-extract.*$", README, re.MULTILINE)))):
        assert option in help_text, option
