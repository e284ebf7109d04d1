"""Measures of maps and masks in a plan: the public function's numbers, and what they stand beside."""

import pytest
import torch

from captum_extract_aggregate import metrics
from captum_extract_aggregate.evaluation import comparisons, register_measure, report, summarize, unregister_measure
from captum_extract_aggregate.evaluation.prepare import prepare
from captum_extract_aggregate.evaluation.runner import maps_of
from tests.evaluation.plans import evaluated

WITH_MASKS = ["relevance_mass_accuracy", "relevance_rank_accuracy", "localisation_auc"]
OF_MAPS = {
    "sparseness": {},
    "complexity": {},
    "effective_complexity": {"threshold": 0.25, "relative": True},
    "histogram_entropy": {"bins": 20},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    measures = [{"measure": name} for name in WITH_MASKS]
    measures += [{"measure": name, "arguments": arguments} for name, arguments in OF_MAPS.items()]
    methods = [{"method": "linear-approximation"}, {"method": "normgrad"}]
    return evaluated(tmp_path_factory.mktemp("results") / "r", measures=measures, methods=methods)


@pytest.fixture(scope="module")
def explained(results):
    """For each image its first method's maps, and the batch."""
    prepared = prepare(results.plan, torch.device("cpu"))
    found = [maps_of(prepared, i, torch.device("cpu")) for i in range(3)]
    return [(columns[0], batch) for _, _, columns, batch in found]


@pytest.fixture(scope="module")
def lines(results):
    return {(s.measure, s.detail): s for s in summarize(results) if s.method == "linear-approximation"}


def test_localisation(results, explained, lines):
    for name in WITH_MASKS:
        detail = "" if name == "localisation_auc" else "accuracy"
        rows = {(r.image, r.target): r.value for r in results.rows(name, detail, method="linear-approximation")}
        above = results.rows(name, "above_chance", method="linear-approximation")
        above = {(r.image, r.target): r.value for r in above}
        for i, (column, batch) in enumerate(explained):
            for _, target, mask in batch.objects():
                map_ = column.maps[batch.targets[0].tolist().index(target)]
                value = rows.pop((i, target))
                assert value == pytest.approx(getattr(metrics, name)(map_, mask[None]).item(), abs=1e-4)
                if detail:
                    assert above[i, target] == pytest.approx(value - mask.double().mean().item())
        assert not rows
    assert lines["relevance_mass_accuracy", "above_chance"].null == 0
    assert lines["localisation_auc", ""].null == 0.5
    assert lines["localisation_auc", ""].mean > 0.5


def test_concentration_beside_noise(results, explained, lines):
    size, own = explained[0][1].x.shape[2:], explained[0][0].maps[0].shape[2:]
    noise = torch.rand(16, 1, *own, generator=torch.Generator().manual_seed(0))
    noise = torch.nn.functional.interpolate(noise, size, mode="bilinear")
    for name, arguments in OF_MAPS.items():
        found = results.rows(name, method="linear-approximation")
        assert len(found) == 3
        for (column, batch), row in zip(explained, found):
            expected = getattr(metrics, name)(column.at_image_size(0, batch), **arguments).item()
            assert row.value == pytest.approx(expected, rel=1e-3)
        assert lines[name, ""].null == pytest.approx(getattr(metrics, name)(noise, **arguments).mean().item())
    tables = {table.measure: table for table in comparisons(results)}
    assert tables["sparseness"].better == "higher"
    assert tables["complexity"].better == "lower"


def test_the_report_says_what_they_mean(results, tmp_path):
    report(results, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "*baseline: noise*" in text
    assert "*baseline: chance*" in text
    assert "The Gini index" in text
    assert {"layers-sparseness.png", "boxes-complexity.png"} <= {path.name for path in tmp_path.glob("*.png")}


def test_noise_as_a_null_of_what_looks_at_more_than_maps_is_refused(tmp_path):
    @register_measure("brightness", null="noise")
    def brightness(maps, inputs, targets, model):
        return inputs.flatten(1).mean(1)

    try:
        found = evaluated(tmp_path / "r", measures=[{"measure": "brightness"}], data={"n": 1})
        with pytest.raises(ValueError, match=r"measure 'brightness' says null='noise', and failed on maps alone"):
            summarize(found)
    finally:
        unregister_measure("brightness")
