"""`python -m benchmarks.performance.gpu [--seconds N] [--output NAME]`: the tables of one GPU, in one run.

The most important come first; no table begins after N seconds (230), and those that were left out are listed. After
each table NAME.json and NAME.md are written (gpu-results), so that a run that is cut short leaves what it has. What
fails is listed with its traceback, and the next table begins. Times are CUDA events'; sides run in turns.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from benchmarks.performance import gpu_checks, gpu_maps, gpu_measures
from benchmarks.performance.gpu_setting import Case, Failure, Setting
from benchmarks.performance.timing import Row, cell, machine


@dataclass
class Outcome:
    """Holds what a run has found so far."""

    machine: str
    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # each table's
    left_out: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        lines = ["# On a GPU", "", f"{self.machine}. {sum(self.seconds.values()):.0f} seconds.", ""]
        lines += ["Each side over the first one of its table, in turns, by CUDA events: the median (range).", ""]
        for section in dict.fromkeys(row.section for row in self.rows):
            lines += [f"## {section}", "", "| | median (range) | must reach | |", "|---|---|---|---|"]
            for row in self.rows:
                if row.section == section:
                    lines.append(_line(row))
            lines.append("")
        if self.failures:
            lines += ["## What failed", ""]
            lines += [f"- {f.section}, {f.case}: `{f.error}` ({f.where})" for f in self.failures] + [""]
        if self.left_out:
            lines += ["## Left out, as time was over", "", *(f"- {name}" for name in self.left_out), ""]
        return "\n".join(lines)


def _line(row: Row) -> str:
    limit = "" if row.limit is None else f"{'≥' if row.at_least else '≤'} {row.limit:g}"
    met = {None: "", True: "yes", False: "**no**"}[row.met]
    return f"| {row.case}{'; ' * bool(row.note)}{row.note} | {cell(asdict(row))} | {limit} | {met} |"


def measured(
    cases: Sequence[Case], seconds: float, output: Path, clock: Callable[[], float] = time.perf_counter
) -> Outcome:
    """Runs one case after the other until the time is over, and writes what there is after each."""
    outcome, begin = Outcome(machine()), clock()
    for case in cases:
        name = f"{case.section}, {case.name}"
        start = clock()
        if start - begin >= seconds:
            outcome.left_out.append(name)
            continue
        for found in _found(case):
            outcome.rows.append(found) if isinstance(found, Row) else outcome.failures.append(found)
            print(_said(found), flush=True)
        outcome.seconds[name] = round(clock() - start, 2)
        _write(outcome, output)
    _write(outcome, output)
    return outcome


def _found(case: Case) -> Iterator[Row | Failure]:
    """Yields what a case gives, the last of it a failure where it raises."""
    try:
        yield from case.run()
    except Exception as error:  # the next one may work
        yield Failure.of(case.section, case.name, error)
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _said(found: Row | Failure) -> str:
    if isinstance(found, Failure):
        return f"FAILED {found.section}: {found.case}: {found.error} ({found.where})"
    missed = " MISSED" * (found.met is False)
    return f"{found.section}: {found.case}: {cell(asdict(found))} {found.note}{missed}"


def _write(outcome: Outcome, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".json").write_text(json.dumps(asdict(outcome), indent=1), encoding="utf-8")
    output.with_suffix(".md").write_text(outcome.markdown(), encoding="utf-8")


def cases(setting: Setting) -> list[Case]:
    """Returns all tables, the most important first."""
    first, *others = setting.dtypes
    return [
        gpu_checks.waits(setting),
        *gpu_maps.floors(setting, first, layers=4),
        *gpu_maps.rules(setting, first),
        gpu_checks.stream(setting),
        *(case for dtype in others for case in gpu_maps.floors(setting, dtype, layers=4)),
        *gpu_maps.peers(setting),
        gpu_maps.memory(setting),
        *gpu_maps.targets(setting),
        gpu_checks.compiled(setting),
        gpu_checks.captured(setting),
        *gpu_measures.cases(setting),
        *gpu_maps.floors(setting, first, layers=1),
        *(case for dtype in others for case in gpu_maps.rules(setting, dtype)),
        *(case for dtype in others for case in gpu_maps.floors(setting, dtype, layers=1)),
    ]


def main(arguments: Sequence[str] | None = None, setting: Setting | None = None) -> Outcome:
    """Parses the command line, measures, and says what failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=230.0, help="no table begins later")
    parser.add_argument("--output", type=Path, default=Path("gpu-results"), help="where NAME.json and NAME.md go")
    parser.add_argument("--only", default="", help="tables whose name holds this")
    options = parser.parse_args(arguments)
    chosen = [case for case in cases(setting or Setting()) if options.only in f"{case.section}, {case.name}"]
    return measured(chosen, options.seconds, options.output)


if __name__ == "__main__":
    main()
