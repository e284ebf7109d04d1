"""A figure that a notebook shows without pyplot."""

import io

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from captum_extract_aggregate._common.notebook_figure import NotebookFigure


def test_it_draws_itself_in_its_own_size():
    figure = NotebookFigure(figsize=(2, 1), dpi=50)
    figure.subplots().imshow(np.eye(3))
    drawn = Image.open(io.BytesIO(figure._repr_png_()))
    assert (drawn.format, drawn.size) == ("PNG", (100, 50))
    assert len(drawn.convert("RGB").getcolors(10_000)) > 2  # more than an empty page


def test_pyplot_does_not_know_of_it():
    before = plt.get_fignums()
    figure = NotebookFigure(figsize=(1, 1))
    assert plt.get_fignums() == before
    assert figure.canvas.figure is figure
    assert figure.canvas.manager is None
