"""Studies in parts: each is written when it is done, so that a run can be stopped, taken up again and spread over
processes."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

Part = tuple[str, ...]  # what is asked, of which network


def options(
    told: str | None, networks: Iterable[str], questions: Iterable[str], devices: Iterable[str]
) -> argparse.ArgumentParser:
    """Returns what the command line of every study takes."""
    parser = argparse.ArgumentParser(description=told, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", nargs="*", default=list(networks), choices=list(networks))
    parser.add_argument("--questions", nargs="*", default=list(questions), choices=list(questions))
    parser.add_argument("--device", default="cpu", choices=list(devices))
    parser.add_argument("--jobs", type=int, default=1, help="how many parts at a time")
    return parser


def answer_all(given: argparse.Namespace, ask: Callable[..., Any], amount: float) -> None:
    """Answers every question that was chosen of every network; `amount` says of how much."""
    warnings.simplefilter("ignore")
    wanted = [(question, name) for question in given.questions for name in given.networks]
    answer(given.folder, wanted, ask, given.jobs, amount, given.device)


def part_file(folder: Path, part: Part) -> Path:
    """Returns where a part is kept."""
    return folder / ("-".join(part).replace(" ", "-") + ".json")


def answer(folder: Path, parts: Sequence[Part], ask: Callable[..., Any], jobs: int, *given: Any) -> None:
    """Writes `ask(*part, *given)` of every part that the folder does not hold, the first ones first; a part that fails
    is told of, and keeps no other from being made."""
    folder.mkdir(parents=True, exist_ok=True)
    left = [part for part in parts if not part_file(folder, part).exists()]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    if jobs == 1:
        _begin(torch.get_num_threads())
        for part in left:
            print(_written(folder, part, ask, given), flush=True)
        return
    spawned = multiprocessing.get_context("spawn")  # a forked process could not use the device
    with ProcessPoolExecutor(jobs, spawned, _begin, (threads,)) as pool:
        for done in as_completed([pool.submit(_written, folder, part, ask, given) for part in left]):
            print(done.result(), flush=True)


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False  # a GPU's numbers are to be a CPU's
    warnings.simplefilter("ignore")


def _written(folder: Path, part: Part, ask: Callable[..., Any], given: tuple[Any, ...]) -> str:
    file, began = part_file(folder, part), time.perf_counter()
    try:
        values = ask(*part, *given)
    except Exception:
        return f"{file.name}: failed\n{traceback.format_exc()}"
    file.with_suffix(".part").write_text(json.dumps(values))
    file.with_suffix(".part").rename(file)
    return f"{file.name}: {time.perf_counter() - began:.0f} s"
