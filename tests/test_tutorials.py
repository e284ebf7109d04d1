"""The tutorials as they are stored; `tutorials/execute.py --check` executes them."""

import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "tutorials"
NOTEBOOKS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.ipynb"))}


def test_there_are_ten():
    assert [name[:2] for name in NOTEBOOKS] == [f"{i:02}" for i in range(1, 11)]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_was_executed_from_top_to_bottom(name):
    cells = [cell for cell in NOTEBOOKS[name]["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/jpeg" in output.get("data", {}) for output in outputs)
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_ends_with_the_reader_s_own_model(name):
    text = ["".join(cell["source"]) for cell in NOTEBOOKS[name]["cells"] if cell["cell_type"] == "markdown"]
    headings = [line for part in text for line in part.splitlines() if re.match(r"#+ ", line)]
    assert headings[0].startswith("# ")
    assert any(heading == "## Your own model" for heading in headings[-2:])
    links = re.findall(r"\]\((\d\d_\w+\.ipynb)\)", "\n".join(text))
    assert links
    assert all((FOLDER / link).is_file() for link in links)
