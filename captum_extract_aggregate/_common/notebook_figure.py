"""A matplotlib figure that a notebook shows without pyplot, which would keep it alive and is not safe in threads."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """Is a figure with its own canvas: IPython draws figures by itself only where pyplot has made one before.

    Example:
        >>> from captum_extract_aggregate._common.notebook_figure import NotebookFigure
        >>> figure = NotebookFigure(figsize=(1, 1))
        >>> figure._repr_png_()[1:4]
        b'PNG'
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        drawn = io.BytesIO()
        self.savefig(drawn, format="png", dpi="figure")
        return drawn.getvalue()
