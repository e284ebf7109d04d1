"""Doctests import every module; that of Captum Insights' page can only be where Insights is."""

import importlib.util

collect_ignore = []
if importlib.util.find_spec("captum.insights") is None:
    collect_ignore.append("captum_extract_aggregate/insights/visualizer.py")
