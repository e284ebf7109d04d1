"""Importing the package, and making a map, loads what maps need and no more; its surface is what users need."""

import subprocess
import sys

import captum_extract_aggregate as cea

SCRIPT = """
import sys
import captum.attr, torchvision
before = set(sys.modules)
import captum_extract_aggregate as cea
import torch
cea.NormGrad(cea.load_scene_model("resnet"), "layer3").attribute(torch.rand(1, 3, 96, 96), target=1)
print(*sorted(set(sys.modules) - before))
"""


def test_a_map_loads_no_measures_evaluation_command_line_or_plots():
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    loaded = result.stdout.split()
    rooms = {name.split(".")[1] for name in loaded if name.startswith("captum_extract_aggregate.")}
    assert rooms <= {"_common", "_engine", "attr", "data", "rules"}
    heavy = {
        "scipy",
        "sklearn",
        "skimage",
        "torchmetrics",
        "typer",
        "rich",
        "pydantic",
        "jinja2",
        "statsmodels",
        "pandas",
    }
    assert not heavy & {name.split(".")[0] for name in loaded}


def test_measures_and_evaluations_load_statistics_when_they_are_needed():
    """Each takes a quarter of a second to a second, which every start of the command would pay."""
    script = "import sys, captum_extract_aggregate.evaluation; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    late = {"torchmetrics", "scipy.stats", "scipy.ndimage", "skimage.feature._hog", "pandas", "statsmodels", "sklearn"}
    assert not late & set(result.stdout.split())


def test_rooms_that_are_imported_late_are_there():
    script = "import captum_extract_aggregate as cea; print(cea.data.__name__, cea.explanation.explain is cea.explain)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["captum_extract_aggregate.data", "True"]


def test_what_is_public_is_shown_and_there():
    shown = [name for name in dir(cea) if not name.startswith("__")]
    assert shown == sorted(cea.__all__)
    assert all(getattr(cea, name).__doc__ for name in shown)
