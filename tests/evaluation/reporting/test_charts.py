"""The charts of a report: which there are, and what is drawn in them."""

import numpy as np
import pytest

from captum_extract_aggregate._common.notebook_figure import NotebookFigure
from captum_extract_aggregate.evaluation.grouping import groups
from captum_extract_aggregate.evaluation.plan import CombinationPlan, MeasurePlan, MethodPlan, Plan
from captum_extract_aggregate.evaluation.reporting.charts import combined, draw
from captum_extract_aggregate.evaluation.statistics import Nulls, summarize_group
from captum_extract_aggregate.evaluation.store import BatchRows, MapRow, Results, Writer
from tests.evaluation.hand_made import value_rows, write


def test_combinations_of_layers_belong_to_no_curve(tmp_path):
    method = MethodPlan("normgrad", label="A", combine=(CombinationPlan(label="product"),))
    plan = Plan((method, MethodPlan("gradcam", label="B")), (MeasurePlan("class_sensitivity"),))
    maps = [MapRow("A", layer, i, 6, 6, 24, 24) for i, layer in enumerate(("l1", "l2", "product"))]
    maps.append(MapRow("B", "l3", 3, 6, 6, 24, 24))
    with Writer(tmp_path, 0, plan, 0) as writer:
        writer.add(0, BatchRows([], [], maps, []))
    assert combined(Results(tmp_path)) == {("A", "product")}


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, by the names of their files."""
    found, original = {}, NotebookFigure.savefig

    def keep(self, path, **options):
        found[path.name] = self
        original(self, path, **options)

    monkeypatch.setattr(NotebookFigure, "savefig", keep)
    return found


def drawn_charts(folder, measure, rows):
    results = write(folder / "results", [measure], rows)
    found, nulls = groups(results, measure), Nulls(results)
    lines = [line for group in found for line in summarize_group(group, nulls)]
    return draw(results, found, lines, folder, "name")


def test_curves_hold_means_and_their_standard_errors(tmp_path, figures):
    values = {("A", "l1"): [0.1, 0.2, 0.3, 0.6], ("A", "l2"): [0.4] * 4, ("B", "l1"): [0.5, 0.7, 0.5, 0.7]}
    paths = drawn_charts(tmp_path, MeasurePlan("class_sensitivity"), value_rows("class_sensitivity", "", values))
    assert all(path.stat().st_size > 1000 for path in paths)
    (ax,) = figures["layers-name.png"].axes
    curves = {container.get_label(): container for container in ax.containers}
    assert list(curves["A"].lines[0].get_ydata()) == pytest.approx([0.3, 0.4])
    (bars,) = curves["A"].lines[2]
    error = np.std(values["A", "l1"], ddof=1) / 2
    assert bars.get_segments()[0][:, 1] == pytest.approx([0.3 - error, 0.3 + error])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["l1", "l2"]


def test_boxes_hold_quartiles_and_means(tmp_path, figures):
    values = {("A", "l1"): [0.0, 1.0, 2.0, 7.0], ("B", "l1"): [1.0] * 4}
    drawn_charts(tmp_path, MeasurePlan("removal_contrast"), value_rows("removal_contrast", "delta_minus", values))
    (ax,) = figures["boxes-name.png"].axes
    box = ax.patches[0]
    first, median, third = np.percentile(values["A", "l1"], [25, 50, 75])
    assert (box.get_x(), box.get_x() + box.get_width()) == pytest.approx((first, third))
    means = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "D"]
    assert means == pytest.approx([2.5, 1.0])
    medians = [
        segment[0, 0] for lines in ax.collections for segment in lines.get_segments() if len(set(segment[:, 0])) == 1
    ]
    assert median in medians


WIDE = [("pixel_removal", "e_minus"), ("parameter_randomization", "000 fc"), ("class_sensitivity", "")]


@pytest.mark.parametrize(("measure", "detail"), WIDE)
@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("label", ["", "W" * 40, "注意力热图" * 8, "a label of several words, all of them long"])
def test_titles_keep_clear_of_the_edges_where_there_is_one_layer(measure, detail, label, tmp_path, figures):
    plan = MeasurePlan(measure, label=label)
    drawn_charts(tmp_path, plan, value_rows(label or measure, detail, {("A", "l1"): [0.1, 0.2, 0.3, 0.6]}))
    assert figures
    for figure in figures.values():
        renderer, page = figure.canvas.get_renderer(), figure.bbox
        title = figure._suptitle.get_window_extent(renderer)
        assert title.x0 > 0.02 * page.width
        assert title.x1 < 0.98 * page.width
        assert title.y1 < page.height


def test_nothing_defined_draws_nothing(tmp_path, figures):
    rows = value_rows("class_sensitivity", "", {("A", "l1"): [float("nan")] * 4})
    assert drawn_charts(tmp_path, MeasurePlan("class_sensitivity"), rows) == []
    assert figures == {}
