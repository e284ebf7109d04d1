"""The pictures of the reproduction: what is drawn in them."""

import numpy as np
import pytest

from captum_extract_aggregate._common.notebook_figure import NotebookFigure
from captum_extract_aggregate.evaluation import MethodPlan
from captum_extract_aggregate.reproduction import charts


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved."""
    found = []

    def keep(self, path, **options):
        found.append(self)

    monkeypatch.setattr(NotebookFigure, "savefig", keep)
    return found


def test_curves(drawn, tmp_path):
    means = {"A": [1.0, 2.0], "B": [3.0, float("nan")]}
    charts.curves(tmp_path / "a.png", ["l1", "l2"], means, {"A": [0.1, 0.2]}, "a title", {"centre": 0.5})
    (ax,) = drawn[0].axes
    assert [text.get_text() for text in ax.get_xticklabels()] == ["l1", "l2"]
    assert ax.get_title() == "a title"
    lines = {container.get_label(): container for container in ax.containers}
    assert np.array_equal(lines["A"].lines[0].get_ydata(), [1, 2])
    assert np.array_equal(np.array(lines["B"].lines[0].get_ydata(), dtype=float), [3, np.nan], equal_nan=True)
    assert [lines[name].has_yerr for name in "AB"] == [True, False]
    (bar,) = lines["A"].lines[2]
    assert np.allclose([segment[:, 1] for segment in bar.get_segments()], [[0.9, 1.1], [1.8, 2.2]])
    (baseline,) = [line for line in ax.lines if line.get_label() == "centre"]
    assert list(baseline.get_ydata()) == [0.5, 0.5]


def test_bars(drawn, tmp_path):
    charts.bars(tmp_path / "a.png", ["l1", "l2", "l3"], {"A": [50, 60, 70], "B": [55, 65, 75]}, "a title")
    (ax,) = drawn[0].axes
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in ax.containers}
    assert heights == {"A": [50, 60, 70], "B": [55, 65, 75]}
    assert ax.get_ylim()[0] == 40
    lefts = [[bar.get_x() for bar in bars] for bars in ax.containers]
    assert np.allclose(np.subtract(lefts[1], lefts[0]), 0.4)  # beside each other


def test_boxes(drawn, tmp_path):
    charts.boxes(tmp_path / "a.png", {"A": [1.0, 2.0, 4.0], "none": []}, "a title")
    (ax,) = drawn[0].axes
    assert [text.get_text() for text in ax.get_xticklabels()] == ["A", "none"]
    assert any(list(line.get_ydata()) == [2, 2] for line in ax.lines)  # the median


def test_a_grid_has_a_row_for_each_class_or_for_each_method_and_class(setting, monkeypatch):
    shown = []

    class Figure:
        def savefig(self, path, **options):
            path.touch()

    def grid(picture, rows, title):
        shown.append({row: list(columns) for row, columns in rows.items()})
        return Figure()

    monkeypatch.setattr(charts, "grid", grid)
    last = setting.layers[-1:]
    methods = [MethodPlan("gradcam", "one", last), MethodPlan("linear-approximation", "two", last)]
    path = charts.picture_grid(setting, methods, "grid", worst=True)
    assert path == setting.folder / "grid-scene-resnet.png"
    assert shown[-1] == {"best class": ["one", "two"], "worst class": ["one", "two"]}
    charts.picture_grid(setting, [MethodPlan("gradcam", "one")], "grid", worst=True)
    assert shown[-1] == {f"one, {which} class": list(setting.layers) for which in ("best", "worst")}
