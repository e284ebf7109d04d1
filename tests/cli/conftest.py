"""Commands as a stranger gives them, and a folder of files with which they must fail."""

import os

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from typer.testing import CliRunner

from captum_extract_aggregate.cli import app
from tests.cli.files import MINE, PLAN


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def run(invoke):
    return lambda *arguments: invoke("explain", *arguments)


def noise(path):
    values = np.random.default_rng(0).integers(0, 255, (150, 200, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


@pytest.fixture
def picture(tmp_path):
    return noise(tmp_path / "picture.png")


@pytest.fixture(scope="session")
def wrong_files(tmp_path_factory):
    """Files that are not what commands expect; made once, since commands that fail change none of them."""
    folder = tmp_path_factory.mktemp("wrong")
    picture = noise(folder / "picture.png")
    for name, text in {
        "text.png": "no picture",
        "empty.txt": "\n",
        "three.txt": "ant\nbee\nwasp\n",
        "leaving.py": "import sys\nsys.exit(7)\n",
        "mine.py": MINE,
        "broken.py": "import nothing_of_this_name",
        "broken_builder.py": (
            "def build():\n    return 3\ndef fail():\n    return 1 / 0\ndef leave():\n    raise SystemExit(7)\n"
        ),
        "plan.toml": PLAN,
        "deep.toml": "x = " + "[" * 3000 + "]" * 3000,
        "file": "",
        "list": "a.png\t0\n",
    }.items():
        (folder / name).write_text(text)
    (folder / "truncated.png").write_bytes(picture.read_bytes()[:2000])
    (folder / "latin.txt").write_bytes("caf\xe9\n".encode("latin-1"))
    (folder / "latin.toml").write_bytes(b"title = '\xe9'")
    os.mkfifo(folder / "pipe.png")
    for name in ("folder.png", "folder.html"):
        (folder / name).mkdir()
    squeezenet = torchvision.models.squeezenet1_1(num_classes=2)
    for name, content in {
        "words.pth": {"0.weight": "words", "0.bias": "words"},
        "keys.pth": {1: torch.zeros(1)},
        "other.pth": squeezenet.state_dict(),
        "pickled.pth": squeezenet,
        "w.pth": {"weight": "words", "bias": torch.zeros(2)},
    }.items():
        torch.save(content, folder / name)
    return folder


@pytest.fixture
def refused(wrong_files, monkeypatch):
    """Gives a command among those files: it must say one line beside its warnings, exit with 2, and write nothing."""
    monkeypatch.chdir(wrong_files)
    before = sorted(path.name for path in wrong_files.iterdir())

    def check(*arguments):
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        lines = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
        assert len(lines) == 1
        assert arguments[0] == "explain" or result.stderr.count("\n") == 1  # which alone may warn
        assert sorted(path.name for path in wrong_files.iterdir()) == before
        return lines[0]

    return check
