"""What type checkers, and with them editors, see of the package: mypy and pyright over right and wrong uses."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RIGHT, WRONG = HERE / "right_uses.py", HERE / "wrong_uses.py"
MARKED = {i for i, line in enumerate(WRONG.read_text().splitlines(), 1) if line.endswith("# wrong")}


def mypy_errors(folder, python, path):
    settings = folder / "mypy.ini"
    settings.write_text("[mypy]\n[mypy-captum.*]\nignore_missing_imports = True\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(settings), "--python-executable", python]
    command += ["--cache-dir", str(folder.parents[2] / "mypy")]  # what it knows of PyTorch, for all tests of a run
    environment = {**os.environ, "MYPYPATH": path}
    done = subprocess.run([*command, "."], capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = re.findall(r"(\w+\.py):(\d+): error: (.*)", done.stdout)  # with those of what lies on `path`
    return {(name, int(line)): text for name, line, text in found if name in (RIGHT.name, WRONG.name)}


def pyright_errors(folder, python, path):
    (folder / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [path] if path else []}))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", python]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if not done.stdout.startswith("{"):
        pytest.skip(f"pyright does not run here: {(done.stdout + done.stderr)[-300:]}")
    found = [d for d in json.loads(done.stdout)["generalDiagnostics"] if d["severity"] == "error"]
    return {(Path(d["file"]).name, d["range"]["start"]["line"] + 1): d["message"] for d in found}


CHECKERS = {"mypy": mypy_errors, "pyright": pyright_errors}


def check(checker, tmp_path, python, path):
    """A user's folder with the two files, away from the source: the package is found on `path` or as installed."""
    pytest.importorskip(checker)
    folder = tmp_path / checker
    folder.mkdir()
    for file in (RIGHT, WRONG):
        shutil.copy(file, folder)
    errors = CHECKERS[checker](folder, python, path)
    assert {name: text for name, text in errors.items() if name[0] != WRONG.name} == {}
    assert {line for name, line in errors if name == WRONG.name} == MARKED


@pytest.mark.parametrize("checker", [pytest.param("mypy", marks=pytest.mark.slow), "pyright"])
def test_wrong_uses_are_errors_and_right_ones_are_not(checker, tmp_path):
    check(checker, tmp_path, sys.executable, str(ROOT))


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--editable"]], ids=["plain", "editable"])
def test_an_installed_package_is_seen(options, tmp_path):
    """In an environment that has it by `pip install` or `pip install --editable`, and all else from this one."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    site = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True)
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.cfg", "README.md", "captum_extract_aggregate"):
        (source / name).symlink_to(ROOT / name)
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", *options, str(source)]
    if subprocess.run(install, capture_output=True).returncode:
        pytest.skip("pip finds no build backend here")
    (Path(site.strip()) / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for checker in CHECKERS:
        check(checker, tmp_path, python, "")
