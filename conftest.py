"""Doctests import every module, but for the page where Captum Insights is not, and users' files for type checkers."""

import importlib.util

collect_ignore = ["tests/typing/right_uses.py", "tests/typing/wrong_uses.py"]
if importlib.util.find_spec("captum.insights") is None:
    collect_ignore.append("captum_extract_aggregate/insights/visualizer.py")
