"""Tables, report and page of hand-made results, against numbers computed by hand."""

import csv
import html.parser
import math
import re

import numpy as np
import pytest
import torch
from scipy.stats import wilcoxon

from captum_extract_aggregate.evaluation import comparisons, statistics, summarize
from captum_extract_aggregate.evaluation.explained import MethodAtLayer
from captum_extract_aggregate.evaluation.plan import CombinationPlan, DataPlan, MeasurePlan, MethodPlan, Plan
from captum_extract_aggregate.evaluation.reporting.charts import combined
from captum_extract_aggregate.evaluation.reporting.maps_page import Entry, write_page
from captum_extract_aggregate.evaluation.reporting.report import write_report
from captum_extract_aggregate.evaluation.reporting.tables import escaped, number
from captum_extract_aggregate.evaluation.store import BatchRows, ImageRow, MapRow, Results, Row, TargetRow, Writer
from captum_extract_aggregate.metrics import holm, null_baseline

HOSTILE = '<script>alert(1)</script>|"`$x$_\n# [a](b)'


def write(folder, measures, rows, images=4, methods=("A", "B"), layers=("l1", "l2"), expected=None, skipped=(), **kw):
    """A results folder: every image holds class 0; image 0 also the difficult class 1."""
    plan = Plan(
        tuple(MethodPlan("normgrad", label=m) for m in methods), tuple(measures), DataPlan(**kw.pop("data", {})), **kw
    )
    maps = [
        MapRow(m, layer, i, 6 if layer == "l1" else 3, 6 if layer == "l1" else 3, 24, 24)
        for i, (m, layer) in enumerate((m, layer) for m in methods for layer in layers)
    ]
    targets = [TargetRow(i, 0, 2.5, True, False, 2 if i == 0 else 1, "best") for i in range(images)]
    targets.append(TargetRow(0, 1, 0.5, True, True, 2, ""))
    looked_at = [ImageRow(i, f"image {i}", 0, "") for i in range(images)]
    looked_at += [ImageRow(images + i, name, -1, why) for i, (name, why) in enumerate(skipped)]
    folder.mkdir(exist_ok=True)
    with Writer(folder, 0, plan, len(looked_at) if expected is None else expected) as writer:
        writer.add(0, BatchRows(looked_at, targets, maps, rows))
    return Results(folder)


def pointing_rows(hits, measure="pointing_game"):
    """Hits by place, of (image 0, class 0), (0, 1), (1, 0), (2, 0), (3, 0)."""
    pairs = [(0, 0), (0, 1), (1, 0), (2, 0), (3, 0)]
    return [
        Row(i, t, m, layer, measure, "", float(hit))
        for (m, layer), own in hits.items()
        for (i, t), hit in zip(pairs, own)
    ]


def value_rows(measure, detail, by_place, target=0):
    return [
        Row(i, target, m, layer, measure, detail, value)
        for (m, layer), own in by_place.items()
        for i, value in enumerate(own)
    ]


def drawn(n, seed=0, shift=0.0):
    return (np.random.default_rng(seed).normal(size=n) * 0.2 + shift).tolist()


def everything(n=12, measures=None, methods=("A", "B"), layers=("l1", "l2")):
    """All kinds of measures for a report."""
    places = [(m, layer) for m in methods for layer in layers]
    plans = [
        MeasurePlan("pointing_game"),
        MeasurePlan("class_sensitivity"),
        MeasurePlan("pixel_removal"),
        MeasurePlan("removal_contrast"),
        MeasurePlan("parameter_randomization"),
        MeasurePlan("completeness_gap"),
        MeasurePlan("own.py:measure", label="mine"),
    ]
    rows = pointing_rows({p: [i % 2, 1, 1, 0, i % 3 > 0] for i, p in enumerate([*places, ("centre", "image")])})

    def add(measure, detail, shift):
        values = {p: drawn(n, seed=i, shift=shift + 0.1 * i) for i, p in enumerate(places)}
        rows.extend(value_rows(measure, detail, values))

    add("class_sensitivity", "", 0.1)
    for detail in ("e_minus", "e_plus", "e_delta", "pixels_minus", "pixels_plus"):
        add("pixel_removal", detail, 0.5)
    for measure in ("pixel_removal", "removal_contrast"):
        for detail in ("flipped_minus", "flipped_plus"):
            rows.extend(value_rows(measure, detail, {p: [1.0] * (n - 2) + [0.0] * 2 for p in places}))
    for detail in ("delta_minus", "delta_plus", "delta"):
        add("removal_contrast", detail, 0.2)
    for i, name in enumerate(("fc", "layer4", "layer3.1", "conv1")):
        add("parameter_randomization", f"{i:03d} {name}", 0.6 - 0.2 * i)
    add("completeness_gap", "", 0.5)
    add("mine", "", 0.0)
    return plans, rows


def one(lines, **wanted):
    found = [line for line in lines if all(getattr(line, key) == value for key, value in wanted.items())]
    assert len(found) == 1, found
    return found[0]


# --- Tables ----------------------------------------------------------------------------------------------------------


def test_pointing_is_a_mean_over_classes_and_not_over_pairs(tmp_path):
    hits = {("A", "l1"): [1, 0, 1, 1, 0], ("centre", "image"): [1, 1, 0, 0, 0]}
    results = write(tmp_path, [MeasurePlan("pointing_game")], pointing_rows(hits))
    lines = summarize(results)
    all_ = one(lines, method="A", detail="all")
    assert all_.mean == (3 / 4 + 0 / 1) / 2
    assert (all_.n, all_.undefined, all_.spread_kind) == (5, 0, "se")
    assert all_.null == (1 / 4 + 1 / 1) / 2
    assert one(lines, method="A", detail="difficult").mean == 0
    assert one(lines, method="A", detail="difficult").n == 1
    assert math.isnan(one(lines, method="A", detail="difficult").spread)  # of a single image
    multi = one(lines, method="A", detail="multi")
    assert (multi.mean, multi.n) == ((1 + 0) / 2, 2)
    assert all_.p == wilcoxon([0, -1, 1, 1, 0], zero_method="wilcox").pvalue
    centre = one(lines, method="centre", detail="all")
    assert centre.mean == all_.null
    assert centre.spread == all_.null_spread
    assert math.isnan(centre.null)
    assert math.isnan(centre.p)


def test_the_bootstrap_draws_images(tmp_path):
    hits = {("A", "l1"): [1, 0, 1, 1, 0]}
    results = write(tmp_path, [MeasurePlan("pointing_game")], pointing_rows(hits))
    generator, drawn_means = np.random.default_rng(0), []
    for _ in range(statistics.DRAWS):
        images = generator.integers(4, size=4)
        first = [[1, 1, 1, 0][i] for i in images]
        second = [0 for i in images if i == 0]
        drawn_means.append(np.mean([np.mean(c) for c in (first, second) if c]))
    assert one(summarize(results), detail="all").spread == pytest.approx(np.std(drawn_means, ddof=1), abs=1e-6)


def test_undefined_is_counted_and_never_zero(tmp_path):
    values = {("A", "l1"): [0.5, math.nan, 1.0, math.nan], ("B", "l1"): [math.nan] * 4, ("A", "l2"): [0.1, 0.2]}
    rows = value_rows("class_sensitivity", "", values)
    results = write(tmp_path, [MeasurePlan("class_sensitivity")], rows)
    lines = summarize(results)
    half = one(lines, method="A", layer="l1")
    assert (half.mean, half.median, half.n, half.undefined) == (0.75, 0.75, 2, 2)
    assert half.spread == pytest.approx(np.std([0.5, 1.0], ddof=1))
    assert half.error == pytest.approx(half.spread / math.sqrt(2))
    none = one(lines, method="B")
    assert (none.n, none.undefined) == (0, 4)
    assert math.isnan(none.mean)
    assert math.isnan(none.p)
    assert one(lines, layer="l2").undefined == 2  # images where others have a value
    assert [line.place for line in lines] == [("A", "l1"), ("A", "l2"), ("B", "l1")]  # the plan's order
    write_report(results, tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "undefined (n = 0, 4 undefined)" in text
    assert "0.750 ± 0.354 (n = 2, 2 undefined)" in text


@pytest.mark.parametrize("similarity", [None, "abs_spearman", "ssim"])
def test_similarities_stand_beside_their_null(tmp_path, similarity):
    measure = MeasurePlan("class_sensitivity", arguments={} if similarity is None else {"similarity": similarity})
    values = {("A", "l1"): drawn(12, 1, 0.4), ("A", "l2"): drawn(12, 2)}
    results = write(tmp_path, [measure], value_rows("class_sensitivity", "", values), images=12)
    lines = summarize(results)
    for layer, size in (("l1", (6, 6)), ("l2", (3, 3))):
        line, null = one(lines, layer=layer), null_baseline(similarity or "spearman", size, (24, 24))
        assert (line.null, line.null_spread) == (null.mean, null.std)
        assert line.p == wilcoxon(np.array(values["A", layer]) - null.mean).pvalue
    assert [line.p_holm for line in lines] == holm([line.p for line in lines])


def test_no_null_where_none_is_known(tmp_path):
    measures = [
        MeasurePlan("class_sensitivity", arguments={"similarity": "hog_spearman"}),  # images of 24 pixels are too small
        MeasurePlan("pixel_removal"),
        MeasurePlan("removal_contrast"),
    ]
    rows = value_rows("class_sensitivity", "", {("A", "l1"): [0.1, 0.2, 0.3, 0.4]})
    rows += value_rows("pixel_removal", "e_minus", {("A", "l1"): [0.1, 0.2, 0.3, 0.4]})
    rows += value_rows("removal_contrast", "delta", {("A", "l1"): [0.1, 0.2, -0.3, 0.4]})
    rows += value_rows("removal_contrast", "e_minus", {("A", "l1"): [0.1, 0.2, 0.3, 0.4]})
    lines = summarize(write(tmp_path, measures, rows))
    assert math.isnan(one(lines, measure="class_sensitivity").null)
    assert math.isnan(one(lines, measure="pixel_removal").p)
    assert math.isnan(one(lines, measure="removal_contrast", detail="e_minus").null)
    delta = one(lines, detail="delta")
    assert delta.null == 0
    assert delta.p == wilcoxon([0.1, 0.2, -0.3, 0.4]).pvalue


# --- Comparisons -----------------------------------------------------------------------------------------------------


def test_methods_are_compared_at_their_best_layers_and_layer_by_layer(tmp_path):
    values = {
        ("A", "l1"): drawn(20, 0, 0.9),
        ("A", "l2"): [-v for v in drawn(20, 1, 0.3)],
        ("B", "l1"): drawn(20, 2, 0.5),
        ("B", "l2"): drawn(20, 3, 0.8),
    }
    rows = value_rows("class_sensitivity", "", values)
    results = write(tmp_path, [MeasurePlan("class_sensitivity")], rows, images=20)
    best, first, second = comparisons(results)
    assert (best.layer, best.is_chosen, best.better, best.magnitude) == ("", True, "lower", True)
    assert (best.comparisons[0].first, best.comparisons[0].second) == ("A at l2", "B at l1")
    expected = wilcoxon(np.abs(values["A", "l2"]) - np.abs(values["B", "l1"]))
    assert best.comparisons[0].p == expected.pvalue
    assert (first.layer, second.layer, first.is_chosen) == ("l1", "l2", False)
    assert (first.comparisons[0].first, first.comparisons[0].second) == ("A", "B")
    text = write_report(results, tmp_path / "out")[0].read_text()
    assert "| A at l2 | B at l1 | 20 | 0 | 0 |" in text
    assert "Best layers were chosen on these same images" in text
    assert re.search(r"- l1: A &gt; B \(p = \S+, n = 20\) \(1 of 1 pairs\)", text)
    assert re.search(r"- l2: B &gt; A \(p = \S+, n = 20\) \(1 of 1 pairs\)", text)


def test_pointing_is_compared_hit_by_hit_without_the_centre(tmp_path):
    a, b = [1, 0, 1, 1, 0], [0, 1, 0, 0, 0]
    hits = {("A", "l1"): a, ("B", "l1"): b, ("centre", "image"): [1] * 5}
    results = write(tmp_path, [MeasurePlan("pointing_game")], pointing_rows(hits), layers=("l1",))
    found = comparisons(results)
    assert [t.detail for t in found] == ["all", "difficult", "multi"]
    (c,) = found[0].comparisons
    assert (c.first, c.second, c.n, c.ties) == ("A", "B", 5, 1)
    assert c.mean == pytest.approx(2 / 5)
    assert math.isnan(c.low)
    assert c.p == wilcoxon(np.subtract(a, b), zero_method="wilcox").pvalue


def test_holm_over_each_table_and_the_first_against_the_rest_when_there_are_many(tmp_path):
    methods = [f"m{i:02d}" for i in range(14)]
    values = {(m, "l1"): drawn(12, i, 0.05 * i) for i, m in enumerate(methods)}
    rows = value_rows("pixel_removal", "e_minus", values)
    results = write(tmp_path, [MeasurePlan("pixel_removal")], rows, images=12, methods=methods, layers=("l1",))
    (table,) = comparisons(results)
    assert table.to_first
    assert [(c.first, c.second) for c in table.comparisons] == [("m00", m) for m in methods[1:]]
    assert [c.p_holm for c in table.comparisons] == holm([c.p for c in table.comparisons])
    write_report(results, tmp_path / "out")
    assert "each is compared to the first" in (tmp_path / "out" / "report.md").read_text()


def test_methods_that_share_no_defined_image_are_named(tmp_path):
    nan = math.nan
    values = {("A", "l1"): [1.0, 2.0, nan, nan], ("B", "l1"): [nan, nan, 1.0, 2.0]}
    rows = value_rows("completeness_gap", "", values)
    results = write(tmp_path, [MeasurePlan("completeness_gap")], rows, layers=("l1",))
    (table,) = comparisons(results)
    assert (table.comparisons, table.left_out) == ((), (("A", "B"),))
    write_report(results, tmp_path / "out")
    assert "Never defined on the same image: A and B." in (tmp_path / "out" / "report.md").read_text()


def test_infinite_gaps_are_neither_hidden_nor_fatal(tmp_path):
    values = {("A", "l1"): [0.1, math.inf, 0.2, 0.3], ("B", "l1"): [0.2, math.inf, 0.3, 0.1]}
    rows = value_rows("completeness_gap", "", values)
    results = write(tmp_path, [MeasurePlan("completeness_gap")], rows, layers=("l1",))
    line = one(summarize(results), method="A")
    assert line.mean == math.inf
    assert line.median == pytest.approx(0.25)
    write_report(results, tmp_path / "out")


# --- The report ------------------------------------------------------------------------------------------------------


def test_everything_is_written_twice_the_same(tmp_path):
    plans, rows = everything()
    results = write(tmp_path / "results", plans, rows, images=12, skipped=[("bad.png", "cannot be read")])
    written = write_report(results, tmp_path / "one", images=[0])
    again = write_report(Results(tmp_path / "results"), tmp_path / "two", images=[0])
    assert [p.name for p in written] == [p.name for p in again]
    for a, b in zip(written, again):
        assert a.read_bytes() == b.read_bytes(), a.name
    names = {p.name for p in written}
    assert {"report.md", "summary.csv", "comparisons.csv", "images.csv", "targets.csv", "rows-mine.csv"} <= names
    assert {"layers-pointing_game.png", "layers-class_sensitivity.png", "boxes-removal_contrast.png"} <= names
    assert "stages-parameter_randomization.png" in names
    text = written[0].read_text()
    assert set(re.findall(r"\]\(([^)]+)\)", text)) <= names | {"maps.html"}  # no link leads nowhere
    assert "12 evaluated, 1 skipped, 13 planned" in text
    assert "| 12 | bad.png | cannot be read |" in text
    assert "Incomplete" not in text
    assert results.plan.hash() in text
    assert "| A | l1 | 2 of 12 | 2 of 12 |" in text  # never flipped
    assert "Stage 1: fc randomised" in text
    assert "Stage 4: conv1 randomised" in text


def test_combinations_of_layers_belong_to_no_curve(tmp_path):
    method = MethodPlan("normgrad", label="A", combine=(CombinationPlan(label="product"),))
    plan = Plan((method, MethodPlan("gradcam", label="B")), (MeasurePlan("class_sensitivity"),))
    maps = [MapRow("A", layer, i, 6, 6, 24, 24) for i, layer in enumerate(("l1", "l2", "product"))]
    maps.append(MapRow("B", "l3", 3, 6, 6, 24, 24))
    with Writer(tmp_path, 0, plan, 0) as writer:
        writer.add(0, BatchRows([], [], maps, []))
    assert combined(Results(tmp_path)) == {("A", "product")}


def test_csv_holds_every_digit(tmp_path):
    values = {("A", "l1"): [0.1 + 0.2, math.nan, 1e-300, 1 / 3], ("B", "l1"): [1.0, 2.0, 3.0, math.inf]}
    rows = value_rows("completeness_gap", "", values)
    results = write(tmp_path, [MeasurePlan("completeness_gap")], rows, layers=("l1",))
    write_report(results, tmp_path / "out")
    with (tmp_path / "out" / "rows-completeness_gap.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    got = {(r["method"], r["layer"]): [] for r in read}
    for r in read:
        got[r["method"], r["layer"]].append(float(r["value"]))
    for place, own in values.items():
        assert np.array_equal(got[place], own, equal_nan=True)
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        summary = list(csv.DictReader(file))
    assert float(summary[1]["median"]) == 2.5


def test_an_incomplete_evaluation_says_so(tmp_path):
    rows = value_rows("class_sensitivity", "", {("A", "l1"): [0.1, 0.2, 0.3, 0.4]})
    results = write(tmp_path, [MeasurePlan("class_sensitivity")], rows, expected=9)
    write_report(results, tmp_path / "out", images=[7])
    text = (tmp_path / "out" / "report.md").read_text()
    assert "**Incomplete: 4 of 9 images were looked at" in text
    assert "| 7 | not looked at yet |" in text
    write_page(tmp_path / "maps.html", results, [])
    assert "Incomplete: 4 of 9" in (tmp_path / "maps.html").read_text()
    with pytest.raises(ValueError, match="images holds 9; expected image numbers from 0 to 8"):
        write_report(results, tmp_path / "out", images=[9])


def test_a_measure_without_values(tmp_path):
    results = write(tmp_path, [MeasurePlan("pointing_game"), MeasurePlan("class_sensitivity")], [])
    assert summarize(results) == []
    assert comparisons(results) == []
    written = write_report(results, tmp_path / "out")
    assert written[0].read_text().count("There are no values.") == 2
    assert not [p for p in written if p.suffix == ".png"]
    assert (tmp_path / "out" / "rows-pointing_game.csv").read_text().count("\n") == 1


def test_an_evaluation_whose_images_were_all_skipped(tmp_path):
    plan = Plan((MethodPlan("normgrad"),), (MeasurePlan("class_sensitivity"),))
    with Writer(tmp_path, 0, plan, 30) as writer:
        writer.add(0, BatchRows([ImageRow(i, "", -1, "broken") for i in range(30)], [], [], []))
    text = write_report(Results(tmp_path), tmp_path / "out")[0].read_text()
    assert "0 evaluated, 30 skipped, 30 planned" in text
    assert "and 10 more" in text


def test_measures_whose_labels_make_the_same_file_name(tmp_path):
    labels = ["a/b", "a:b", "A b", "../..", "CON|", "summary"]
    measures = [MeasurePlan("class_sensitivity", label=label) for label in labels]
    rows = [row for label in labels for row in value_rows(label, "", {("A", "l1"): [0.1, 0.2, 0.3, 0.4]})]
    written = write_report(write(tmp_path, measures, rows), tmp_path / "out")
    assert len({p.name.lower() for p in written}) == len(written)
    assert {p.resolve().parent for p in written} == {(tmp_path / "out").resolve()}


# --- Hostile names ---------------------------------------------------------------------------------------------------


def hostile_results(folder):
    places = {(HOSTILE, HOSTILE): [0.1, 0.2, 0.3, 0.4], ("B", HOSTILE): [0.3, 0.1, 0.5, 0.2]}
    measures = [
        MeasurePlan("class_sensitivity", label=HOSTILE),
        MeasurePlan("parameter_randomization"),
        MeasurePlan("own.py:f"),
    ]
    rows = value_rows(HOSTILE, "", places)
    rows += value_rows("parameter_randomization", f"000 {HOSTILE}", places)
    rows += value_rows("own.py:f", "", places)
    skipped = [(HOSTILE, HOSTILE)]
    data = {"kind": "list", "file": HOSTILE}
    return write(folder, measures, rows, 4, (HOSTILE, "B"), (HOSTILE,), skipped=skipped, data=data, title=HOSTILE)


def test_markdown_shows_names_as_they_are(tmp_path):
    markdown_it = pytest.importorskip("markdown_it")
    results = hostile_results(tmp_path)
    text = write_report(results, tmp_path / "out", images=[0, 4])[0].read_text()
    assert "<script" not in text
    rendered = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert "<script" not in rendered
    assert 'href="b"' not in rendered
    seen = " ".join(re.sub(r"<[^>]+>", " ", rendered).split())
    assert "&lt;script&gt;alert(1)&lt;/script&gt;|&quot;`$x$_ # [a](b)" in seen
    for table in re.findall(r"<table>.*?</table>", rendered, flags=re.DOTALL):
        widths = {len(re.findall(r"<t[hd]", row)) for row in re.findall(r"<tr>.*?</tr>", table, flags=re.DOTALL)}
        assert len(widths) == 1
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["method"] == HOSTILE


class Tags(html.parser.HTMLParser):
    """What a browser would see."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.stack, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text += data


def entry(image=0, target=0, name="seven", methods=("A", "B"), layers=("l1", "l2")):
    generator = torch.Generator().manual_seed(image)
    maps = {m: {layer: torch.randn(1, 6, 6, generator=generator) for layer in layers} for m in methods}
    return Entry(image, target, name, torch.rand(3, 30, 40, generator=generator), maps)


def test_the_page_shows_names_as_they_are(tmp_path):
    results = hostile_results(tmp_path)
    path = tmp_path / "maps.html"
    hostile = entry(0, 0, HOSTILE, (HOSTILE,), (HOSTILE,))
    write_page(path, results, [hostile, entry(4, 0, "x", (HOSTILE,), (HOSTILE,))])
    seen = Tags(path.read_text())
    assert not seen.stack
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in seen.tags}
    assert seen.text.count(HOSTILE) >= 6
    for tag, attributes in seen.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        if tag == "img":
            assert attributes["src"].startswith("data:image/png;base64,")
            assert attributes["alt"]
    assert any(HOSTILE in a.get("alt", "") for _, a in seen.tags)
    policy = [a["content"] for tag, a in seen.tags if tag == "meta" and a.get("http-equiv")]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_the_page_holds_maps_and_their_numbers(tmp_path):
    plans, rows = everything()
    results = write(tmp_path, plans, rows, images=12)
    path = tmp_path / "maps.html"
    write_page(path, results, [entry(0), entry(0, 1, "one"), entry(11)])
    text = path.read_text()
    again = tmp_path / "again.html"
    write_page(again, results, [entry(0), entry(0, 1, "one"), entry(11)])
    assert again.read_bytes() == path.read_bytes()
    seen = Tags(text)
    assert sum(tag == "img" for tag, _ in seen.tags) == 3 * (1 + 4)
    value = results.rows("class_sensitivity", "", "A", "l1")[0].value
    assert f"class_sensitivity {value:.4g}" in seen.text
    assert "Class 1, one; score 0.500; in the image; difficult." in seen.text
    assert "image 11" in seen.text
    ids = {a["id"] for _, a in seen.tags if "id" in a}
    assert {a["href"][1:] for tag, a in seen.tags if tag == "a"} <= ids
    assert len(text) < 15 * 40_000


def test_the_page_of_unusual_entries(tmp_path):
    rows = value_rows("class_sensitivity", "", {("A", "l1"): [math.nan, 0.2, 0.3, 0.4]})
    results = write(tmp_path, [MeasurePlan("class_sensitivity")], rows)
    maps = {"A": {"l1": torch.full((3, 3), math.nan)}, "B": {"l2": torch.zeros(1, 5, 5)}}
    write_page(tmp_path / "a.html", results, [Entry(0, 0, "zero", torch.rand(3, 400, 3), maps)])
    assert "class_sensitivity undefined" in (tmp_path / "a.html").read_text()
    with pytest.raises(ValueError, match=r"picture has shape \(1, 4, 4\); expected 3 x H x W"):
        write_page(tmp_path / "a.html", results, [Entry(0, 0, "zero", torch.rand(1, 4, 4), maps)])


def test_words_and_numbers():
    assert escaped("class_sensitivity") == "class_sensitivity"
    assert escaped("a|b\nc") == r"a\|b c"
    assert escaped("_x_") == r"\_x\_"
    assert [number(v) for v in (0.0, 0.12345, -12.0, 1e-5, math.nan, math.inf)] == [
        "0.000",
        "0.123",
        "-12.000",
        "1e-05",
        "undefined",
        "inf",
    ]
    assert MethodAtLayer("a", "b") == ("a", "b")
