"""What an evaluation finds: the numbers of the public measures, again and again."""

import gc
import math

import pytest
import torch
from captum.attr import LayerGradCam, Saliency
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.data import mask_from_boxes
from captum_extract_aggregate.evaluation import plan_from, run, store
from captum_extract_aggregate.metrics import (
    PointingGame,
    RestrictedPointingGame,
    centre_map,
    class_sensitivity,
    completeness_gap,
    parameter_randomization,
    pixel_removal,
    removal_contrast,
)
from tests.evaluation import plans
from tests.evaluation.continuing import listed
from tests.evaluation.explaining import Summed, close, values
from tests.evaluation.plans import (
    HERE,
    POINTING,
    content,
    dump,
    evaluated,
    of,
)

SCENES, STEP = 3, 2304


LAYERS = {"scene-vgg": ["features.8", "features.18"], "scene-resnet": ["layer2", "layer3"]}


STAGES = {"scene-vgg": ["features.17", "features.7"], "scene-resnet": ["fc", "layer3"]}


@pytest.fixture(scope="module", params=[pytest.param("scene-vgg", marks=pytest.mark.slow), "scene-resnet"])
def evaluation(request, tmp_path_factory):
    """A plan with everything on four scenes; its results, and the model, images and targets by themselves."""
    name = request.param
    layers, (_, last) = LAYERS[name], LAYERS[name]
    plain = content(
        methods=[
            {"method": "normgrad", "combine": [{}, {"mode": "sum", "weights": [1, 3], "label": "mixed"}]},
            {"method": "linear-approximation", "layers": [last], "label": "meta"}
            | {"meta_saliency": {"lr": 0.002, "ascent": True}},
            {"method": "captum:LayerGradCam"},
            {"method": "captum:Saliency", "arguments": {}, "channels": "max_abs"},
            {"method": "captum:Saliency", "label": "summed", "arguments": {}},
            {"method": "captum:Saliency", "label": "abs", "channels": "abs_sum"},
            {"method": "linear-approximation", "layers": [last], "interpolation": "nearest", "label": "nearest"},
            {"method": "rectgrad", "layers": [last], "arguments": {"percentile": 90}},
            {"method": "gradient", "layers": ["input"]},
            {"method": "conv3x3:norm", "layers": [last]},
        ],
        measures=[
            {"measure": "pointing_game", "arguments": {"tolerance": 4}},
            {"measure": "restricted_pointing_game", "arguments": {"tolerance": 4}, "label": "restricted"},
            {"measure": "class_sensitivity"},
            {"measure": "class_sensitivity", "arguments": {"similarity": "ssim"}, "label": "ssim"},
            {"measure": "pixel_removal", "arguments": {"step": STEP}},
            {"measure": "removal_contrast", "arguments": {"step": STEP}},
            {"measure": "completeness_gap"},
            {"measure": "parameter_randomization", "arguments": {"layers": STAGES[name], "n_seeds": 2}},
            {"measure": f"{HERE}:total", "label": "own", "arguments": {"factor": 2}},
        ],
        layers=layers,
        model={"name": name},
        data={"n": SCENES, "seed": 3},
        run={"batch_size": SCENES, "seed": 5},
    )
    results = run(plan_from(plain), tmp_path_factory.mktemp(name), show_progress=False)
    model = cea.load_scene_model(name.removeprefix("scene-"))
    items = [cea.DigitScenes(SCENES, seed=3)[i] for i in range(SCENES)]
    x = torch.stack([image for image, _ in items])
    with torch.no_grad():
        scores = model(x)
    present = [sorted(set(target["labels"].tolist())) for _, target in items]
    masks = [
        torch.stack([mask_from_boxes(t["boxes"][t["labels"] == c], (96, 96)) for c in classes])
        for (_, t), classes in zip(items, present)
    ]
    return results, model, x, scores, present, masks, layers


def explainers(model, layers):
    """For each method and layer of the plan, what computes its maps by public calls."""
    last = layers[-1]
    norm_grad = cea.NormGrad(model, layers)
    modules = {name: model.get_submodule(name) for name in layers}
    meta = cea.MetaSaliency(cea.LinearApproximation(model, last), lr=0.002, ascent=True)
    return {
        ("normgrad", layers[0]): Summed(cea.NormGrad(model, layers[0])),
        ("normgrad", last): Summed(cea.NormGrad(model, last)),
        ("normgrad", "product, uniform"): Summed(cea.LayerCombination(norm_grad)),
        ("normgrad", "mixed"): Summed(cea.LayerCombination(norm_grad, weights=(1, 3), mode="sum")),
        ("meta", last): Summed(meta),
        ("captum:LayerGradCam", layers[0]): Summed(LayerGradCam(model, modules[layers[0]])),
        ("captum:LayerGradCam", last): Summed(LayerGradCam(model, modules[last])),
        ("captum:Saliency", "input"): Summed(Saliency(model), "max_abs"),
        ("summed", "input"): Summed(Saliency(model)),
        ("abs", "input"): Summed(Saliency(model), "abs_sum"),
        ("nearest", last): Summed(cea.LinearApproximation(model, last), mode="nearest"),
        ("rectgrad", last): Summed(cea.RectGrad(model, last, percentile=90)),
        ("gradient", "input"): Summed(cea.LayerGradient(model, None)),
        ("conv3x3:norm", last): Summed(cea.ExtractAggregate(model, last, extract="conv3x3", aggregate="norm")),
    }


def test_which_rows_there_are(evaluation):
    results, model, x, _scores, present, _, layers = evaluation
    columns = list(explainers(model, layers))
    assert [(m.method, m.layer) for m in results.maps()] == columns
    assert results.complete
    assert len(results.images()) == SCENES
    assert results.skipped() == []
    assert {(m.image_height, m.image_width) for m in results.maps()} == {(96, 96)}
    sizes = {(m.method, m.layer): (m.height, m.width) for m in results.maps()}
    assert sizes["captum:Saliency", "input"] == sizes["normgrad", "mixed"] == (96, 96)
    assert sizes["normgrad", layers[-1]] == cea.NormGrad(model, layers[-1]).attribute(x, target=0).shape[2:]
    details = 7
    for measure, rows_per_column in {
        "pointing_game": sum(map(len, present)),
        "restricted": sum(map(len, present)),
        "class_sensitivity": SCENES,
        "ssim": SCENES,
        "pixel_removal": SCENES * details,
        "removal_contrast": SCENES * (details + 3),
        "completeness_gap": SCENES,
        "parameter_randomization": SCENES * 2,
        "own": SCENES,
    }.items():
        own = [*columns, ("centre", "image")] if measure in ("pointing_game", "restricted") else columns
        rows = results.rows(measure)
        assert len(rows) == rows_per_column * len(own), measure
        assert {(r.method, r.layer) for r in rows} == set(own)


def test_targets(evaluation):
    results, _, _, scores, present, masks, _ = evaluation
    targets = results.targets()
    for i in range(SCENES):
        best, worst = int(scores[i].argmax()), int(scores[i].argmin())
        own = {t: row for (image, t), row in targets.items() if image == i}
        assert set(own) == {best, worst, *present[i]}
        for t, row in own.items():
            assert row.score == pytest.approx(float(scores[i, t]), rel=1e-5)
            assert row.role == {best: "best", worst: "worst"}.get(t, "")
            assert (row.present, row.classes) == (t in present[i], len(present[i]))
            small = t in present[i] and masks[i][present[i].index(t)].double().mean() < 0.25
            assert row.difficult == (small and len(present[i]) > 1)
    label = int(cea.DigitScenes(SCENES, seed=3)[0][1]["labels"][0])
    assert results.images()[0] == (0, "scene 0", label, "")


def test_pointing(evaluation):
    results, model, x, scores, present, masks, layers = evaluation
    for (method, layer), explain in explainers(model, layers).items():
        game, restricted = PointingGame(10, tolerance=4), RestrictedPointingGame(10, tolerance=4)
        for i in range(SCENES):
            for c, mask in zip(present[i], masks[i]):
                game.update(explain(x[i : i + 1], target=c), mask[None], [c])
            restricted.update(explain(x[i : i + 1], target=int(scores[i].argmax())), [masks[i]], [present[i]])
        for measure, expected in (("pointing_game", game.compute()), ("restricted", restricted.compute())):
            again = torch.zeros(2, 10)
            for row in results.rows(measure, "", method, layer):
                again[1 - int(row.value), row.target] += 1
            assert again[0].tolist() == expected["hits"].tolist(), (method, layer, measure)
            assert again[1].tolist() == expected["misses"].tolist(), (method, layer, measure)
            accuracy = (again[0] / again.sum(0)).nanmean()
            assert float(accuracy) == pytest.approx(float(expected["accuracy"]))
    game = PointingGame(10, tolerance=4)
    for i in range(SCENES):
        game.update(centre_map((96, 96)).expand(len(present[i]), -1, -1, -1), masks[i], present[i])
    assert values(results, "pointing_game", method="centre").sum() == game.compute()["hits"].sum()


def test_class_sensitivity(evaluation):
    results, model, x, _, _, _, layers = evaluation
    for (method, layer), explain in explainers(model, layers).items():
        for label, similarity in (("class_sensitivity", "spearman"), ("ssim", "ssim")):
            expected = class_sensitivity(explain, x, model, similarity)
            assert close(values(results, label, method=method, layer=layer), expected), (method, layer, similarity)


def test_removal(evaluation):
    results, model, x, scores, _, _, layers = evaluation
    best = scores.argmax(1)
    for (method, layer), explain in explainers(model, layers).items():
        if method not in ("normgrad", "captum:LayerGradCam", "nearest", "abs"):
            continue
        maps = explain(x, target=best)
        for order, suffix in (("least", "minus"), ("most", "plus")):
            expected = pixel_removal(model, x, maps, order, step=STEP)
            for name in ("e", "pixels", "flipped"):
                for measure in ("pixel_removal", "removal_contrast"):
                    got = values(results, measure, f"{name}_{suffix}", method, layer)
                    assert close(got, getattr(expected, name)), (method, layer, measure, name)
        contrast = removal_contrast(model, x, maps, step=STEP, seed=5)
        for name in ("delta_minus", "delta_plus", "delta"):
            assert close(values(results, "removal_contrast", name, method, layer), getattr(contrast, name))
        difference = values(results, "pixel_removal", "e_delta", method, layer)
        minus, plus = (values(results, "pixel_removal", f"e_{s}", method, layer) for s in ("minus", "plus"))
        assert close(difference, minus - plus)


def test_completeness_and_own(evaluation):
    results, model, x, scores, _, _, layers = evaluation
    best = scores.argmax(1)
    method = cea.LayerGradient(model, None)
    expected = completeness_gap(model, x, method.attribute(x, target=best).sum(1, keepdim=True), best)
    assert close(values(results, "completeness_gap", method="gradient"), expected, 1e-3)
    for (name, layer), explain in explainers(model, layers).items():
        expected = 2 * explain(x, target=best).double().flatten(1).sum(1)
        got = values(results, "own", method=name, layer=layer)
        assert torch.allclose(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())), name


def test_randomization(evaluation):
    results, model, x, scores, _, _, layers = evaluation
    before = [p.clone() for p in model.parameters()]
    stages = STAGES["scene-vgg" if layers[0].startswith("features") else "scene-resnet"]
    for (method, layer), explain in explainers(model, layers).items():
        if method == "meta":  # its explainer would have to see the randomised network too
            continue
        expected = parameter_randomization(explain, model, x, target=scores.argmax(1), n_seeds=2, seed=5, layers=stages)
        for i, name in enumerate(expected.stages):
            got = values(results, "parameter_randomization", f"{i:03d} {name}", method, layer)
            assert close(got, expected.values[i], 2e-3), (method, layer, name)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_an_undefined_map_is_nan_not_a_miss(tmp_path, monkeypatch):
    def undefined(self, *args, **kwargs):
        return [torch.full_like(m, math.nan) for m in original(self, *args, **kwargs)]

    original = cea.NormGrad.all_maps
    monkeypatch.setattr(cea.NormGrad, "all_maps", undefined)
    results = evaluated(
        tmp_path,
        measures=[
            {"measure": "pointing_game"},
            {"measure": "pixel_removal", "arguments": {"step": 4096}},
            {"measure": "removal_contrast", "arguments": {"step": 4096}},
            {"measure": "class_sensitivity"},
        ],
    )
    for measure in ("pointing_game", "pixel_removal", "removal_contrast", "class_sensitivity"):
        assert values(results, measure, method="normgrad").isnan().all(), measure
    assert not values(results, "pointing_game", method="centre").isnan().any()


VARIED = {
    "methods": [
        {"method": "normgrad", "combine": [{}]},
        {"method": "captum:LayerGradCam", "layers": ["layer3"]},
        {"method": "linear-approximation", "label": "meta", "layers": ["layer3"], "meta_saliency": {}},
    ],
    "layers": ["layer2", "layer3"],
    "measures": [
        {"measure": "pointing_game"},
        {"measure": "class_sensitivity"},
        {"measure": "pixel_removal", "arguments": {"step": 2048}},
        {"measure": "parameter_randomization", "arguments": {"layers": ["fc"]}},
    ],
    "data": {"n": 5},
}


def test_the_same_bits_in_another_folder(tmp_path):
    torch.manual_seed(1)
    first = dump(evaluated(tmp_path / "a", **VARIED))
    torch.manual_seed(2)
    threads = torch.get_num_threads()
    assert dump(evaluated(tmp_path / "b", **VARIED)) == first
    assert torch.get_num_threads() == threads


def test_results_do_not_depend_on_the_batches(tmp_path):
    together, alone = (evaluated(tmp_path / str(n), **VARIED, run={"batch_size": n}) for n in (5, 1))
    for measure, detail in together.measures():
        a, b = (r.rows(measure, detail) for r in (together, alone))
        assert [row[:6] for row in a] == [row[:6] for row in b]
        x, y = (torch.tensor([row.value for row in rows]) for rows in (a, b))
        assert torch.allclose(x, y, rtol=1e-3, atol=1e-3, equal_nan=True), (measure, detail)
    for key, row in together.targets().items():
        assert row.score == pytest.approx(alone.targets()[key].score, rel=1e-4, abs=1e-4)


RANDOM = {
    "a measure that draws": {"measures": [{"measure": f"{HERE}:drawn_value"}]},
    "random weights": {"model": {"name": "resnet18", "weights": "random"}, "layers": ["layer3"]},
    "a model that nobody seeded": {"model": {"name": f"{HERE}:unseeded_net"}, "layers": ["conv1"]},
    "a data set that draws": {
        "model": {"name": f"{HERE}:tiny_net"},
        "layers": ["conv1"],
        "data": {"kind": "custom", "dataset": f"{HERE}:drawn_tensors"},
    },
    "a method that draws": {
        "model": {"name": f"{HERE}:tiny_net"},
        "data": {"kind": "custom", "dataset": f"{HERE}:tensors", "arguments": {"count": 3, "size": 2}},
        "methods": [{"method": "captum:ShapleyValueSampling"}],
        "layers": ["conv1"],
    },
}


@pytest.mark.parametrize("case", RANDOM)
def test_all_that_is_drawn_comes_from_the_seed(case, tmp_path):
    state = torch.get_rng_state()
    first = dump(evaluated(tmp_path / "a", **RANDOM[case]))
    assert torch.equal(torch.get_rng_state(), state)  # the user's own draws go on as if nothing had been
    torch.manual_seed(17)
    assert dump(evaluated(tmp_path / "b", **RANDOM[case])) == first
    other = dump(evaluated(tmp_path / "c", **RANDOM[case], run={"batch_size": 2, "seed": 1}))
    assert (
        other["rows of " + content(**RANDOM[case])["measures"][0]["measure"]]
        != first["rows of " + content(**RANDOM[case])["measures"][0]["measure"]]
    )


def test_draws_do_not_depend_on_what_was_done_before(tmp_path, monkeypatch):
    plain = RANDOM["a measure that draws"] | {"data": {"n": 6}}
    whole = dump(evaluated(tmp_path / "whole", **plain))
    calls, original = [], plans.DigitScenes.__getitem__ if hasattr(plans, "DigitScenes") else None
    assert original is None
    original = cea.DigitScenes.__getitem__

    def failing(self, index):
        calls.append(index)
        if index == 4:
            raise KeyboardInterrupt
        return original(self, index)

    monkeypatch.setattr(cea.DigitScenes, "__getitem__", failing)
    with pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path / "resumed", **plain)
    monkeypatch.undo()
    assert dump(evaluated(tmp_path / "resumed", **plain)) == whole


def test_rows_and_tensors_do_not_pile_up(only_new_objects, tmp_path, monkeypatch):
    """What is alive while a batch is evaluated is as much for the tenth as for the third."""
    alive, original = [], store.Writer.add

    def counting(self, batch, found):
        original(self, batch, found)
        del found
        gc.collect()
        objects = gc.get_objects()
        tensors = [o for o in objects if type(o) in (torch.Tensor, nn.Parameter)]
        rows = sum(type(o) is store.Row for o in objects)
        alive.append((len(tensors), sum(t.numel() for t in tensors), rows))

    monkeypatch.setattr(store.Writer, "add", counting)
    data = {"kind": "custom", "dataset": f"{HERE}:tensors_with_pairs", "arguments": {"count": 20}}
    of(tmp_path, data, measures=POINTING)
    assert len(alive) == 10
    assert alive[2][0] > 0
    for early, late in zip(alive[2], alive[-1]):
        assert late <= early * 1.02 + 8


ALONE = {
    "scene-vgg": ["features.8", "features.18"],
    "scene-resnet": ["layer1", "layer3"],
    "scene-vit": ["blocks.1", "blocks.4"],
    "squeezenet1_1": ["features.5", "features.12"],
}


@pytest.mark.parametrize("name", ALONE)
def test_numbers_do_not_depend_on_what_else_is_computed(name, tmp_path):
    """To the last digit: fused kernels would round differently below the first layer that is explained."""
    data = {"n": 2} if name.startswith("scene") else {"kind": "list", "file": str(listed(tmp_path)), "size": 64}
    model = {"name": name} if name.startswith("scene") else {"name": name, "weights": "random"}
    try:
        changes = {"model": model, "data": data, "methods": [{"method": "normgrad"}, {"method": "excitation"}]}
        both = evaluated(tmp_path / "both", **changes, layers=ALONE[name])
    except ValueError as error:
        if "excitation" not in str(error):
            raise
        changes["methods"] = [{"method": "normgrad"}]
        both = evaluated(tmp_path / "both", **changes, layers=ALONE[name])
    late = evaluated(tmp_path / "late", **changes, layers=ALONE[name][1:])
    assert late.rows("class_sensitivity") == both.rows("class_sensitivity", layer=ALONE[name][1])
    assert list(late.targets().values()) == list(both.targets().values())


def test_a_run_shows_a_warning_once(tmp_path):
    (tmp_path / "noisy.py").write_text(
        "import warnings\n"
        "def noisy(maps, inputs, target, model):\n"
        "    with warnings.catch_warnings():\n"
        "        pass\n"
        "    warnings.warn('look', stacklevel=1)\n"
        "    return maps.flatten(1).sum(1)\n"
    )
    with pytest.warns(UserWarning, match="look") as caught:
        evaluated(tmp_path / "results", run={"batch_size": 1}, measures=[{"measure": f"{tmp_path / 'noisy.py'}:noisy"}])
    assert [str(w.message) for w in caught if str(w.message) == "look"] == ["look"]


def test_zeros_with_a_sign_are_read_again(tmp_path):
    """SQLite gives -0 back as 0, which is not damage."""
    data = {"kind": "custom", "dataset": f"{plans.HERE}:tensors", "arguments": {"count": 2}}
    model, measures = {"name": f"{plans.HERE}:net_of_ties"}, [{"measure": "sparseness"}]
    plan = plan_from(
        content(model=model, data=data, measures=measures, layers=["conv2"], methods=[{"method": "captum:Saliency"}])
    )
    first = run(plan, tmp_path, show_progress=False)
    assert run(plan, tmp_path, show_progress=False).count() == first.count() > 0
