"""Sphinx: `pip install -e ".[docs]" && sphinx-build -W docs docs/_build`. Every code cell is executed."""

import os
import shutil
from pathlib import Path

from captum_extract_aggregate import __version__

project = "captum_extract_aggregate"
author = "the captum_extract_aggregate authors"
copyright = author
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx-mathjax-offline"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"captum_\u200bextract_\u200baggregate {__version__}"

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

nb_execution_mode = "force"
nb_execution_excludepatterns = ["tutorials/*"]  # they hold their outputs; tutorials/execute.py makes and checks them
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

# Docstrings are read in terminals first: one backtick is code
default_role = "code"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "exclude-members": "get_name, attribute_future"}
napoleon_numpy_docstring = False

# Sphinx sees only what lies below this folder
shutil.copytree(
    Path(__file__).parent.parent / "tutorials",
    Path(__file__).parent / "tutorials",
    ignore=shutil.ignore_patterns("*.py", ".*"),
    dirs_exist_ok=True,
)

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
