"""Executes the tutorials: `python tutorials/execute.py [NAME ...]` in place, `--check` beside what is stored.

Needs `pip install -e ".[docs]"`. `--check` fails when a cell fails, prints a warning, or says something else than the
stored output does; numbers may differ by one in their last place, pictures are not compared, nor are cells tagged
"varies".
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "docs"))
from kernels import start_at_once  # noqa: E402

NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def execute(path: Path) -> Any:
    """The notebook with fresh outputs, in the order and the streams of one sitting."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(HERE)}},
        coalesce_streams=True,
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/jpeg"] = as_jpeg(output.data.pop("image/png"))
                output.metadata.pop("image/png", None)
    return notebook


def as_jpeg(png: str) -> str:
    """A third of the size: noise compresses badly without loss."""
    picture = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").save(picture, "JPEG", quality=85)
    return base64.b64encode(picture.getvalue()).decode()


def differences(stored: Any, fresh: Any) -> list[str]:
    """What the fresh outputs say that the stored ones do not."""
    found = []
    for index, (old, new) in enumerate(zip(stored.cells, fresh.cells)):
        if new.cell_type != "code":
            continue
        found += [f"cell {index} warns: {text}" for kind, text in said(new) if kind == "stderr"]
        if "varies" in new.metadata.get("tags", []):
            continue
        if len(said(old)) != len(said(new)) or not all(alike(*pair) for pair in zip(said(old), said(new))):
            found.append(f"cell {index} says\n{said(new)}\nwhere it is stored that\n{said(old)}")
    return found


def said(cell: Any) -> list[tuple[str, str]]:
    """A cell's outputs: their kind and, but for pictures, their text."""
    outputs = []
    for output in cell.outputs:
        if output.output_type == "stream":
            outputs.append((output.name, output.text))
        elif any(kind.startswith("image/") for kind in output.data):
            outputs.append(("picture", ""))
        else:
            outputs.append(("result", output.data.get("text/plain", "")))
    return outputs


def alike(old: tuple[str, str], new: tuple[str, str]) -> bool:
    """Whether two outputs say the same, but for numbers that round differently."""
    numbers = [NUMBER.findall(text) for _, text in (old, new)]
    words = [(kind, " ".join(NUMBER.sub("#", text).split())) for kind, text in (old, new)]
    return words[0] == words[1] and all(close(*pair) for pair in zip(*numbers))


def close(old: str, new: str) -> bool:
    """Whether two numbers agree but for one in the last decimal place of the stored one, or 2 %."""
    decimals = len(old.partition(".")[2]) if "e" not in old else 0
    slack = 1.01 * 10**-decimals if decimals else 0
    return abs(float(old) - float(new)) <= max(slack, 0.02 * abs(float(old)))


def main() -> int:
    """Executes or checks; the exit status says how many notebooks are not as they should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="files; left out: all")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # sums round alike on any number of cores
    os.environ.pop("MPLBACKEND", None)  # a kernel draws into the notebook
    start_at_once()
    bad = 0
    for path in [Path(name) for name in options.names] or sorted(HERE.glob("*.ipynb")):
        start = time.perf_counter()
        stored, fresh = nbformat.read(path, as_version=4), execute(path)
        wrong = differences(stored, fresh) if options.check else []
        if not options.check:
            nbformat.write(fresh, path)
        bad += bool(wrong)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s", *wrong, sep="\n  ", flush=True)
    return bad


if __name__ == "__main__":
    sys.exit(main())
