"""Several processes give what one gives, to the last digit, also when one of them is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from captum_extract_aggregate.evaluation import Results, plan_from, run
from tests.evaluation.plans import HERE, content, dump
from tests.evaluation.wrong_plans import check_refused

ROOT = Path(__file__).parents[2]


TIMEOUT = 150


def plan(marker=""):
    """A dozen images in batches of two, with a measure that kills process 1 once if there is a marker to leave."""
    return {
        "layers": ["conv1", "conv2"],
        "model": {"name": f"{HERE}:tiny_net"},
        "data": {"kind": "custom", "dataset": f"{HERE}:tensors_with_pairs", "arguments": {"count": 12}},
        "methods": [{"method": "normgrad", "combine": [{}]}, {"method": "captum:Saliency"}],
        "measures": [
            {"measure": "pointing_game", "arguments": {"tolerance": 3}},
            {"measure": "class_sensitivity"},
            {"measure": f"{HERE}:deadly_total", "label": "total", "arguments": {"marker": str(marker)}},
        ],
        "run": {"batch_size": 2},
    }


def torchrun(processes, plain, folder, *options):
    """The exit status of a run under torchrun; all of its processes are gone afterwards."""
    path = folder.parent / "plan.json"
    path.write_text(json.dumps(plain))
    script = Path(__file__).with_name("run_plan.py")
    options = options or ("--standalone",)
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, str(script), str(path), str(folder)],
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"torchrun did not end: {output[-2000:]}")
    return process.returncode, output


def free_port():
    """For a static rendezvous: torch 2.3 closes the standalone one at the first failure, so that nobody can restart."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.slow
def test_two_give_what_one_gives(tmp_path):
    status, output = torchrun(2, plan(), tmp_path / "results")
    assert status == 0, output[-2000:]
    parts = sorted(path.name for path in (tmp_path / "results").glob("part-*.sqlite"))
    assert parts == ["part-0000.sqlite", "part-0001.sqlite"]
    assert dump(Results(tmp_path / "results")) == dump(run(plan_from(plan()), tmp_path / "alone", show_progress=False))


@pytest.mark.slow
def test_one_is_killed_and_all_start_again(tmp_path):
    plain = plan(tmp_path / "marker")
    status, output = torchrun(2, plain, tmp_path / "results", "--max-restarts=1", f"--master-port={free_port()}")
    assert (tmp_path / "marker").exists()  # it was killed
    assert status == 0, output[-2000:]
    found = Results(tmp_path / "results")
    assert len(found.environments) > 2
    assert dump(found) == dump(run(plan_from(plain), tmp_path / "alone", show_progress=False))


@pytest.mark.slow
def test_one_is_killed_and_fewer_continue(tmp_path):
    plain = plan(tmp_path / "marker")
    status, _ = torchrun(3, plain, tmp_path / "results", "--standalone", "--max-restarts=0")
    assert status != 0
    assert not Results(tmp_path / "results").complete
    status, output = torchrun(2, plain, tmp_path / "results")
    assert status == 0, output[-2000:]
    assert dump(Results(tmp_path / "results")) == dump(run(plan_from(plain), tmp_path / "alone", show_progress=False))


WRONG = {
    "too many threads": (content(run={"threads": 100000}), "run.threads is 100000; expected at most .* cores"),
    "a device without numbers": (content(run={"device": "meta"}), "run.device is 'meta', which cannot be used here"),
    "a device of another machine": (content(run={"device": "mps"}), "run.device is 'mps', which cannot be used here"),
    "an unknown device": (content(run={"device": "gpu"}), "device is 'gpu'|device.*gpu"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_devices_and_threads(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_refused(*WRONG[case], tmp_path)
