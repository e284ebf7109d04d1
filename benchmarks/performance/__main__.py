"""`python -m benchmarks.performance [SECTION ...]`: measures, and writes docs/performance*.md, a figure and the JSON.

A section that is named is measured anew, the others are kept. The peers want
`pip install grad-cam torchcam zennit lxt quantus`.

The tables of a GPU are made by `python -m benchmarks.performance.gpu`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from benchmarks.performance import maps, measures, peers
from benchmarks.performance.figure import draw
from benchmarks.performance.gpu_page import gpu_page
from benchmarks.performance.timing import Row, cell, machine

HERE = Path(__file__).parent
STORED = HERE / "results.json"
PAGE = HERE.parents[1] / "docs" / "performance.md"
GPU_PAGE = PAGE.with_name("performance_gpu.md")
SECTIONS: dict[str, Callable[[], Iterable[Row]]] = {
    "forwards": maps.forwards,
    "floors": maps.floors,
    "sessions": maps.sessions,
    "whole_network": maps.whole_network,
    "captum": maps.captum,
    "peers": peers.peers,
    "memory": maps.memory,
    "grid": maps.grid,
    "targets": maps.targets,
    "competition": maps.competition,
    "batched_backward": maps.batched_backward,
    "closed_forms": maps.closed_forms,
    "pixel_removal": measures.pixel_removal,
    "curves": measures.curves,
    "spearman": measures.spearman,
    "meta_saliency": measures.meta_saliency,
    "rules": measures.rules,
    "evaluation": measures.evaluation,
    "imports": measures.imports,
}


def page(stored: dict[str, dict[str, object]]) -> str:
    lines = [(HERE / "text.md").read_text(encoding="utf-8")]
    for name, section in stored.items():
        lines += [f"## {name.replace('_', ' ').capitalize()}", "", str(SECTIONS[name].__doc__), ""]
        lines += [f"{section['machine']}.", "", "| | ratio (range) | must reach | |", "|---|---|---|---|"]
        for row in section["rows"]:  # type: ignore[attr-defined]
            limit = "" if row["limit"] is None else f"{'≥' if row['at_least'] else '≤'} {row['limit']:g}"
            met = {None: "", True: "yes", False: "**no**"}[Row(**row).met]
            note = f"; {row['note']}" if row["note"] else ""
            lines.append(f"| {row['case']}{note} | {cell(row)} | {limit} | {met} |")
        lines.append("")
    return "\n".join([*lines, "The same on a GPU: [](performance_gpu.md).", ""])


def write(stored: dict[str, dict[str, object]]) -> None:
    PAGE.write_text(page(stored), encoding="utf-8")
    GPU_PAGE.write_text(gpu_page(), encoding="utf-8")
    draw(stored)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help="left out: all")
    parser.add_argument("--page", action="store_true", help="write the page of what was measured before, nothing else")
    options = parser.parse_args()
    stored = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}
    if options.page:
        write(stored)
        return
    for name in options.sections or SECTIONS:
        rows = []
        for found in SECTIONS[name]():
            rows.append(asdict(found))
            missed = "MISSED" if found.met is False else ""
            print(f"{name}: {found.case}: {cell(asdict(found))} {found.note} {missed}", flush=True)
        stored[name] = {"machine": machine(), "rows": rows}
        stored = {key: stored[key] for key in SECTIONS if key in stored}
        STORED.write_text(json.dumps(stored, indent=1), encoding="utf-8")
        write(stored)


if __name__ == "__main__":
    main()
