"""Captum Insights with this package's methods and Captum's layer methods: choose a method, and the layer by name.

Captum Insights was part of Captum up to 0.8.0: `pip install "captum[insights]==0.8.0" "numpy<2"`. On any version
`captum-extract-aggregate explain --html` makes a page without it.
"""

from captum_extract_aggregate.insights.methods import register
from captum_extract_aggregate.insights.server import serve

__all__ = ["register", "serve"]
