"""What measures ask of randomised and other networks: computed once for all of them, and the same alone."""

import contextlib
import copy
from dataclasses import replace

import pytest
import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate.evaluation import plan_from
from captum_extract_aggregate.evaluation.explainer import Explainer, Noisy
from captum_extract_aggregate.evaluation.measure_spec import register_measure, unregister_measure
from captum_extract_aggregate.evaluation.prepare import prepare
from captum_extract_aggregate.evaluation.runner import evaluate_batch
from captum_extract_aggregate.metrics.randomization import randomization_stages, randomization_states, randomized
from tests.evaluation.plans import HERE, NET, content, evaluated

DATA = {"kind": "custom", "dataset": f"{HERE}:tensors", "arguments": {"count": 2}}
ORDERS = {
    "down": {"measure": "parameter_randomization"},
    "alike": {"measure": "parameter_randomization", "arguments": {"similarity": "pearson"}},
    "own": {"measure": "parameter_randomization", "arguments": {"order": "independent"}},
    "up": {"measure": "parameter_randomization", "arguments": {"order": "bottom_up"}},
    "entropy": {"measure": "emprt", "arguments": {"init": "normal", "bins": 20}},
    "reset": {"measure": "emprt", "arguments": {"bins": 20}},
    "smooth": {"measure": "smprt", "arguments": {"n_samples": 2}},
    "smooth alike": {"measure": "smprt", "arguments": {"n_samples": 2, "similarity": "pearson"}},
}
# Of fc, conv2, conv1 (0, 1, 2), in this order: what each has not got from the others.
PASSES = {"down": 3, "alike": 0, "own": 2, "up": 1, "entropy": 0, "reset": 1, "smooth": 2 + 3 * 2, "smooth alike": 0}


def prepared(labels, **changes):
    measures = [{**ORDERS[label], "label": label} for label in labels]
    methods = [{"method": "linear-approximation"}, {"method": "normgrad"}]
    given = {"model": NET, "layers": ["conv2"], "data": DATA, "methods": methods, "measures": measures}
    return prepare(plan_from(content(**given | changes)), torch.device("cpu"))


def rows_and_forwards(labels):
    ready, forwards = prepared(labels), []
    handle = ready.model.register_forward_hook(lambda *_: forwards.append(1))
    rows = evaluate_batch(ready, range(2), torch.device("cpu")).rows
    handle.remove()
    return {label: [row for row in rows if row.measure == label] for label in labels}, len(forwards)


def test_every_state_is_explained_once_for_all_measures():
    before = prepared(["down"]).model.state_dict()
    together, forwards = rows_and_forwards(ORDERS)
    assert forwards == 2 + sum(PASSES.values())  # the scores, the maps, and what is randomised
    for label in ORDERS:
        alone, own = rows_and_forwards([label])
        assert repr(together[label]) == repr(alone[label])  # NaN is itself
        assert own >= 2 + PASSES[label]
    after = prepared(["down"])
    evaluate_batch(after, range(2), torch.device("cpu"))
    assert all(torch.equal(value, before[name]) for name, value in after.model.state_dict().items())


def test_what_is_kept_goes_with_the_last_that_may_ask():
    ready = prepared(["down"])
    batch = ready.batch([ready.images.read(0)], torch.device("cpu"))
    explain = ready.explainer(batch)
    calls = []
    counted = Explainer(batch, lambda *given: calls.append(1) or explain.columns_of(*given), ready.stages, sharing=1)
    first = list(counted.randomised("cascading", "normal", 2, None))
    assert len(calls) == 6
    counted.sharing = 0
    again = list(counted.randomised("cascading", "normal", 2, None))
    assert len(calls) == 6
    assert all(a[2] is b[2] for a, b in zip(first, again))
    list(counted.randomised("cascading", "normal", 1, None))
    assert len(calls) == 9
    noisy = Noisy([batch.x, batch.x + 1], ("noisy",))
    parts = [explain(x)[0].maps[0] for x in noisy.inputs]
    torch.testing.assert_close(explain.averaged(noisy)[0].maps[0], (parts[0] + parts[1]) / 2)


def test_states_are_the_networks_that_they_say():
    ready = prepared(["down"])
    batch = ready.batch([ready.images.read(0)], torch.device("cpu"))
    explain = ready.explainer(batch)
    stages = randomization_stages(ready.model, None, (batch.x,), ())
    assert [name for name, _ in stages] == ["fc", "conv2", "conv1"]
    for order in ("cascading", "bottom_up", "independent", "at_once"):
        found = [(now.layers, name, c[0].maps[0]) for now, name, c in explain.randomised(order, "normal", 1, None)]
        states = randomized(ready.model, stages, randomization_states(order, 1, 3), "normal", 0)
        with contextlib.closing(states):
            for (layers, name, map_), state in zip(found, states):
                assert layers == state.layers
                expected = cea.LinearApproximation(ready.model, "conv2").attribute(batch.x, batch.best)
                torch.testing.assert_close(map_, expected, rtol=1e-3, atol=1e-6)
                assert name == ("all layers" if order == "at_once" else stages[state.layers[-1]][0])


def test_another_network():
    ready = prepared(["down"], methods=[{"method": "linear-approximation"}, {"method": "captum:Saliency"}])
    batch = ready.batch([ready.images.read(0)], torch.device("cpu"))
    other = copy.deepcopy(ready.model)
    torch.nn.init.ones_(other.fc.weight)
    columns = ready.explainer(batch).on(other, torch.tensor([4]))
    expected = cea.LinearApproximation(other, "conv2").attribute(batch.x, 4)
    torch.testing.assert_close(columns[0].maps[0], expected, rtol=1e-3, atol=1e-6)
    assert [column.layer for column in columns] == ["conv2", "input"]


def test_a_measure_of_ones_own_gets_it(tmp_path):
    @register_measure("twice", takes="columns")
    def twice(batch, columns, explain):
        again = {column.place: column for column in explain(batch.x * 2)}
        for column in columns:
            yield from ((column, value) for value in batch.values("", again[column.place].maps[0].sum((1, 2, 3))))

    try:
        results = evaluated(tmp_path / "r", model=NET, data=DATA, layers=["conv2"], measures=[{"measure": "twice"}])
        assert len(results.rows("twice")) == 2
    finally:
        unregister_measure("twice")


def test_wrong_uses():
    ready = prepared(["down"])
    batch = ready.batch([ready.images.read(0)], torch.device("cpu"))
    with pytest.raises(ValueError, match="sideways"):
        next(ready.explainer(batch).randomised("sideways", "normal", 1, None))


@pytest.mark.parametrize("methods", [["normgrad"], ["normgrad", "captum:Saliency"], ["captum:Saliency"]])
def test_scores_are_those_of_a_forward_by_itself(methods):
    """A network may round differently where gradients are asked for; the second even has other best classes there, of
    two images."""
    given = {"methods": [{"method": name} for name in methods], "measures": [{"measure": "sparseness"}]}
    ready, turned = prepared([], **given), prepared([], **given, model={"name": f"{HERE}:turned_net"})
    samples = [ready.images.read(i) for i in range(2)]
    for some in (samples[:1], samples, samples):  # of each number of images the first batch is compared
        with torch.no_grad():
            scores = ready.model(torch.stack([sample.x for sample in some]))
        found, others = (net.explained(some, torch.device("cpu")) for net in (ready, turned))
        for batch, _ in (found, others):
            assert torch.equal(batch.scores, scores)
            assert torch.equal(batch.targets, found[0].targets)
        assert [c.place for c in found[1]] == [c.place for c in others[1]]
    assert list(ready.tells_scores.values()) == [True, True]
    assert list(turned.tells_scores.values()) == [True, methods == ["captum:Saliency"]]


def test_what_is_remembered_of_sizes_is_bounded(monkeypatch):
    monkeypatch.setattr("captum_extract_aggregate.evaluation.prepared._MOST_CASES", 2)
    ready = prepared([], measures=[{"measure": "sparseness"}])
    sample = ready.images.read(0)
    for size in (8, 9, 10, 11, 12):
        ready.explained([replace(sample, x=sample.x[:, :size])], torch.device("cpu"))
        assert 1 <= len(ready.tells_scores) <= 2
