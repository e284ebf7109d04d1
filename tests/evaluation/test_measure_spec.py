"""What measures say of themselves, the package's and the user's, and what evaluations and reports make of it."""

import inspect

import pytest
import torch
from scipy.stats import wilcoxon

from captum_extract_aggregate import metrics, scores
from captum_extract_aggregate.evaluation import (
    Interpretation,
    MeasurePlan,
    MeasureSpec,
    Results,
    comparisons,
    describe_measure,
    list_measures,
    plan_from,
    register_measure,
    report,
    run,
    summarize,
    unregister_measure,
)
from captum_extract_aggregate.evaluation.measure_spec import find_measure
from captum_extract_aggregate.evaluation.store import ResultsError
from tests.evaluation.plans import HERE, content, evaluated

OURS = [
    "pointing_game",
    "restricted_pointing_game",
    "class_sensitivity",
    "pixel_removal",
    "removal_contrast",
    "completeness_gap",
    "parameter_randomization",
    "perturbation_curve",
    "symmetric_relevance_gain",
    "difull",
    "dipart",
    "relevance_mass_accuracy",
    "relevance_rank_accuracy",
    "grid_pointing_game",
    "localisation_auc",
    "sparseness",
    "complexity",
    "effective_complexity",
    "histogram_entropy",
    "stability",
    "emprt",
    "smprt",
]


@pytest.fixture
def registered():
    """Registers a measure for one test."""
    names = []

    def add(name, function, **facts):
        register_measure(name, **facts)(function)
        names.append(name)
        return name

    yield add
    for name in names:
        unregister_measure(name)


def spread(maps, inputs, targets, model, power=1.0):
    return maps.double().flatten(1).std(1) ** power


def written(results, folder):
    report(results, folder)
    return (folder / "report.md").read_text()


# --- The registry ----------------------------------------------------------------------------------------------------


def test_all_measures_are_listed_and_have_the_defaults_of_the_public_functions():
    assert list_measures() == OURS
    networks = {"difull": scores.DiFull, "dipart": scores.DiPart}
    for name in OURS:
        function = networks.get(name) or getattr(metrics, name, metrics.pointing_game)
        public = inspect.signature(function).parameters
        for argument, value in find_measure(MeasurePlan(name)).defaults().items():
            assert public[argument].default == value, (name, argument)


def test_clashes_and_unknown_names_are_refused(registered):
    name = registered("spread", spread)
    assert list_measures() == [*OURS, "spread"]
    with pytest.raises(ValueError, match=r"measure is 'spread', which is taken; expected .* overwrite=True"):
        register_measure(name)(spread)
    register_measure(name, overwrite=True, better="higher")(spread)
    assert find_measure(MeasurePlan(name)).better == "higher"
    original = find_measure(MeasurePlan("pixel_removal"))
    register_measure("pixel_removal", overwrite=True)(spread)
    assert find_measure(MeasurePlan("pixel_removal")).function is spread
    unregister_measure("pixel_removal")
    assert find_measure(MeasurePlan("pixel_removal")) is original
    with pytest.raises(ValueError, match="measure is 'spred', which is unknown; did you mean 'spread'"):
        unregister_measure("spred")
    with pytest.raises(ValueError, match=r"measure is 'a.py:b'; expected a name without a colon"):
        register_measure("a.py:b")


def test_wrong_facts_are_refused():
    with pytest.raises(TypeError, match="a fact of a measure is 'beter', which is unknown; did you mean 'better'"):
        describe_measure(beter="lower")
    for facts, message in (
        ({"better": "smaller"}, "better is 'smaller'"),
        ({"better": {"": "low"}}, "better is 'low', .* did you mean 'lower'"),
        ({"summary": "median"}, "summary is 'median'"),
        ({"charts": ("box",)}, "charts is 'box', .* did you mean 'boxes'"),
        ({"null": "center"}, "null is 'center', .* did you mean 'centre'"),
        ({"takes": "map"}, "takes is 'map', .* did you mean 'maps'"),
        ({"needs": ("object",)}, "needs is 'object', .* did you mean 'objects'"),
    ):
        with pytest.raises(ValueError, match=message):
            describe_measure(**facts)(spread)


def test_details_stand_in_the_order_of_what_is_better():
    told = Interpretation(better={"b": "lower", "a": "higher"})
    assert told.ordered(["z", "a", "b", "c"]) == ["b", "a", "c", "z"]
    assert told.compared(["z", "a", "b"]) == ["b", "a"]
    assert Interpretation(better="lower").compared(["x", "y"]) == ["x", "y"]
    assert Interpretation(summary="stages").compared(["x", "y"]) == ["y"]
    assert [told.better_of(d) for d in ("a", "b", "c")] == ["higher", "lower", ""]
    assert Interpretation(null={"a": 0.5}).null_of("a") == 0.5
    assert Interpretation(null={"a": 0.5}).null_of("b") is None
    assert Interpretation(null="centre").null_of("") is None


# --- Measures of the user's own --------------------------------------------------------------------------------------

TWO = {"methods": [{"method": "normgrad"}, {"method": "gradcam"}], "data": {"n": 4}}


def test_a_registered_measure_is_treated_as_ours_are(tmp_path, registered):
    facts = {"meaning": "The `spread`, <b>.", "better": "lower", "null": 0.25, "baseline": "a *null*"}
    registered("spread", spread, **facts, charts=("layers", "boxes"), axis="spread")
    results = evaluated(tmp_path / "results", measures=[{"measure": "spread", "arguments": {"power": 2.0}}], **TWO)
    lines = {line.method: line for line in summarize(results)}
    for method, line in lines.items():
        values = [row.value for row in results.rows("spread", method=method)]
        assert (line.n, line.null) == (4, 0.25)
        assert line.p == wilcoxon([v - 0.25 for v in values]).pvalue
    assert [table.better for table in comparisons(results)] == ["lower"]
    text = written(results, tmp_path / "report")
    assert "The `spread`, &lt;b&gt;. Here with power 2.0." in text
    assert r"*baseline: a \*null\** | 0.250 |" in text
    assert "lower is better" in text
    assert {path.name for path in (tmp_path / "report").glob("*.png")} == {"layers-spread.png", "boxes-spread.png"}


def test_results_remember_what_a_measure_said(tmp_path, registered):
    registered("spread", spread, better="lower", meaning="It was said then.")
    evaluated(tmp_path / "results", measures=[{"measure": "spread"}], **TWO)
    register_measure("spread", overwrite=True, better="higher", meaning="It is said now.")(spread)
    results = Results(tmp_path / "results")
    assert "It was said then." in written(results, tmp_path / "report")
    assert "measures" not in results.environments[0]
    assert comparisons(results)[0].better == "lower"


def test_a_function_in_a_file_says_what_it_is(tmp_path):
    (tmp_path / "own.py").write_text(
        "from captum_extract_aggregate.evaluation import describe_measure\n"
        "@describe_measure(better='higher', meaning='The largest.')\n"
        "def largest(maps, inputs, targets, model):\n"
        "    return maps.flatten(1).amax(1)\n"
    )
    name = f"{tmp_path / 'own.py'}:largest"
    results = evaluated(tmp_path / "results", measures=[{"measure": name, "label": "largest"}], **TWO)
    (tmp_path / "own.py").unlink()  # a report runs no code
    assert "The largest." in written(Results(tmp_path / "results"), tmp_path / "report")
    assert comparisons(results)[0].better == "higher"


def test_a_registered_measure_that_changed_is_refused(tmp_path, monkeypatch, registered):
    """Of one in a file, and of one whose text alone is known."""
    for i, text in enumerate(("maps.flatten(1).amax(1)", "maps.flatten(1).amin(1)")):
        path = tmp_path / "mine.py"
        path.write_text(f"def own(maps, inputs, targets, model):\n    return {text}\n")
        found = {}
        exec(compile(path.read_text(), str(path), "exec"), found)
        register_measure("own", overwrite=True)(found["own"])
        if not i:
            evaluated(tmp_path / "results", measures=[{"measure": "own"}])
            continue
        with pytest.raises(ResultsError, match="the code of measure 'own'"):
            evaluated(tmp_path / "results", measures=[{"measure": "own"}])
    unregister_measure("own")


def test_measures_of_columns_and_of_all_columns_together(tmp_path, registered):
    def sizes(batch, column, factor=1):
        for i, sample in enumerate(batch.samples):
            yield i, int(batch.best[i]), "height", factor * column.maps[0].shape[2]
            yield i, int(batch.best[i]), "known", float(len(sample.pairs.classes))

    def steadiness(batch, columns, explain):
        again = {column.place: column for column in explain()}
        for column in columns:
            same = torch.equal(again[column.place].maps[0], column.maps[0])
            for i in range(len(batch.samples)):
                yield column, (i, int(batch.best[i]), "000 again", float(same))

    registered("sizes", sizes, takes="column", better={"height": "higher"})
    registered("steadiness", steadiness, takes="columns", summary="stages", charts=("stages",))
    measures = [{"measure": "sizes", "arguments": {"factor": 2}}, {"measure": "steadiness"}]
    results = evaluated(tmp_path / "results", measures=measures, **TWO)
    assert {row.value for row in results.rows("steadiness")} == {1.0}
    assert len(results.rows("steadiness")) == 8
    assert {row.value for row in results.rows("sizes", "height")} == {2.0 * m.height for m in results.maps()}
    assert [table.detail for table in comparisons(results) if table.measure == "sizes"] == ["height"]
    text = written(results, tmp_path / "report")
    assert "Stage 1: again" in text
    with pytest.raises(ValueError, match="an argument of sizes is 'facto', which is unknown; did you mean 'factor'"):
        evaluated(tmp_path / "none", measures=[{"measure": "sizes", "arguments": {"facto": 2}}])


def test_hits_of_ones_own_are_compared_with_the_centre(tmp_path, registered):
    def inside(batch, column):
        for i, sample in enumerate(batch.samples):
            for target, mask in zip(sample.pairs.classes, sample.pairs.masks):
                map_ = column.at_image_size(batch.targets[i].tolist().index(target), batch)[i]
                yield i, target, "", float(mask.flatten()[map_.argmax()])

    facts = {"summary": "accuracy", "null": "centre", "needs": ("objects",), "charts": ("layers",)}
    registered("inside", inside, takes="column", better="higher", **facts)
    results = evaluated(tmp_path / "results", measures=[{"measure": "inside"}], **TWO)
    lines = summarize(results)
    assert {line.detail for line in lines} == {"all", "difficult", "multi"}
    assert {line.method for line in lines} == {"normgrad", "gradcam", "centre"}
    centre = next(line for line in lines if line.method == "centre" and line.detail == "all")
    assert all(line.null == centre.mean for line in lines if line.method != "centre" and line.detail == "all")
    assert "All pairs of image and class" in written(results, tmp_path / "report")
    plan = content(
        measures=[{"measure": "inside"}],
        model={"name": f"{HERE}:tiny_net"},
        data={"kind": "custom", "dataset": f"{HERE}:tensors", "size": 24},
        layers=["conv1"],
    )
    with pytest.raises(ValueError, match="measure 'inside' needs whole images with known objects"):
        run(plan_from(plan), tmp_path / "none", show_progress=False)


def test_a_measure_of_all_columns_that_fails_says_where(tmp_path, registered):
    def failing(batch, columns, explain):
        raise RuntimeError("out of order")

    registered("failing", failing, takes="columns")
    with pytest.raises(ValueError, match=r"measure 'failing' failed on the maps of image 'scene 0' .*out of order"):
        evaluated(tmp_path / "results", measures=[{"measure": "failing"}])


def test_measures_of_columns_cannot_hurt_the_others(tmp_path, registered):
    def destructive(batch, column, explain=None):
        before = float(batch.x.abs().sum())
        for t in (batch.x, batch.scores, batch.targets, batch.samples[0].pairs.masks, *column.maps):
            t.zero_()
        next(batch.model.parameters()).data.zero_()
        return [(0, 0, "", before)]

    def all_destructive(batch, columns, explain):
        return [(column, value) for column in columns for value in destructive(batch, column)]

    registered("destructive", destructive, takes="column")
    registered("all destructive", all_destructive, takes="columns")
    others = [{"measure": "pointing_game"}, {"measure": "class_sensitivity"}, {"measure": "completeness_gap"}]
    alone = evaluated(tmp_path / "alone", measures=others)
    bad = [{"measure": "destructive"}, {"measure": "all destructive"}]
    beside = evaluated(tmp_path / "beside", measures=[*bad, *others])
    for measure in others:
        assert beside.rows(measure["measure"]) == alone.rows(measure["measure"])
    assert all(row.value > 0 for row in beside.rows("destructive"))
    assert [row.value for row in beside.rows("all destructive")] == [row.value for row in beside.rows("destructive")]


def test_what_a_measure_of_columns_yields_is_checked(tmp_path, registered):
    def wrong(batch, column):
        yield 0, 1.0

    registered("wrong", wrong, takes="column")
    with pytest.raises(ValueError, match=r"measure 'wrong' failed on the maps of normgrad .*unpack"):
        evaluated(tmp_path / "results", measures=[{"measure": "wrong"}])


def test_a_spec_knows_whose_it_is():
    assert not find_measure(MeasurePlan("pixel_removal")).is_users
    assert MeasureSpec(function=spread).is_users
    assert MeasureSpec(function=spread).defaults() == {"power": 1.0}
