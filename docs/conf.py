"""Sphinx: `pip install -e ".[docs]" && sphinx-build -W docs docs/_build/html`. Every code cell is executed."""

import os
import shutil
import sys
from pathlib import Path

from captum_extract_aggregate import __version__
from captum_extract_aggregate.evaluation.choice.board import boards_in
from captum_extract_aggregate.evaluation.reporting.leaderboard_page import write_leaderboard

sys.path.insert(0, str(Path(__file__).parent))
from accessible import describe_figures, make_accessible
from kernels import start_at_once

start_at_once()

project = "captum_extract_aggregate"
author = "the captum_extract_aggregate authors"
copyright = author
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx-mathjax-offline"]
exclude_patterns = ["_build", "jupyter_execute"]
html_theme = "furo"
html_theme_options = {"top_of_page_buttons": []}
html_use_index = False  # there are a search and a reference
html_title = f"captum_\u200bextract_\u200baggregate {__version__}"

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

nb_execution_mode = "force"
nb_execution_excludepatterns = ["tutorials/*"]  # they hold their outputs; tutorials/execute.py makes and checks them
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables among what cells show

# Docstrings are read in terminals first: one backtick is code, and on a page a link, where it is a public name.
default_role = "py:obj"
suppress_warnings = ["ref.python"]  # where several things have the name, none is linked
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "exclude-members": "get_name, attribute_future"}
napoleon_numpy_docstring = False

# Sphinx sees only what lies below this folder: the tutorials are there for as long as it builds.
TUTORIALS = Path(__file__).parent / "tutorials"
shutil.copytree(
    TUTORIALS.parent.parent / "tutorials", TUTORIALS, ignore=shutil.ignore_patterns("*.py", ".*"), dirs_exist_ok=True
)

LEADERBOARD = sorted((Path(__file__).parent / "leaderboard").glob("*.json"))  # what its sortable page is made of

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")


def finish(app, exception):
    """What building writes beside the pages would be taken for sources the next time."""
    if exception is None and app.builder.format == "html":
        write_leaderboard(Path(app.outdir) / "leaderboard_table.html", boards_in(LEADERBOARD))
    make_accessible(Path(app.outdir))
    shutil.rmtree(TUTORIALS, ignore_errors=True)
    shutil.rmtree(Path(app.outdir).parent / "jupyter_execute", ignore_errors=True)


def setup(app):
    """Sphinx calls it."""
    app.connect("doctree-read", describe_figures)
    app.connect("build-finished", finish)
