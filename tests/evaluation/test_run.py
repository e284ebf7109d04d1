"""What an evaluation finds: the numbers of the public measures, on every kind of data and model, again and again."""

import math

import pytest
import torch
from captum.attr import LayerGradCam, Saliency
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.data import mask_from_boxes
from captum_extract_aggregate.evaluation import Results, plan_from, run
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
from tests.conftest import REAL_DATA, needs_real_data
from tests.evaluation import plans
from tests.evaluation.plans import HERE, coco_tree, content, dump, evaluated, picture_folder, voc_tree

SCENES, STEP = 4, 512
LAYERS = {"scene-vgg": ["features.8", "features.18"], "scene-resnet": ["layer2", "layer3"]}
STAGES = {"scene-vgg": ["features.17", "features.7"], "scene-resnet": ["fc", "layer3"]}


def values(results, measure, detail=None, method=None, layer=None):
    """A number per image; or per image and class, for those that have several."""
    rows = results.rows(measure, detail, method, layer)
    assert rows
    return torch.tensor([row.value for row in rows], dtype=torch.float64)


@pytest.fixture(scope="module", params=["scene-vgg", "scene-resnet"])
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


def at_size(maps, mode="bilinear"):
    options = {"align_corners": False} if mode == "bilinear" else {}
    return nn.functional.interpolate(maps, (96, 96), mode=mode, **options)


class Summed:
    """An explainer whose maps are brought to one channel and the image's size."""

    def __init__(self, method, channels="sum", mode="bilinear"):
        self.method, self.channels, self.mode = method, channels, mode

    def __call__(self, inputs, target):
        m = self.method.attribute(inputs, target=target).detach()
        m = m.abs() if self.channels != "sum" else m
        m = m.amax(1, keepdim=True) if self.channels == "max_abs" else m.sum(1, keepdim=True)
        return m if m.shape[2:] == inputs.shape[2:] else at_size(m, self.mode)


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


def close(got, expected, tolerance=2e-4):
    expected = torch.as_tensor(expected).double()
    return torch.allclose(got, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


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


# --- The same again --------------------------------------------------------------------------------------------------

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
        "data": {"kind": "custom", "dataset": f"{HERE}:tensors", "arguments": {"size": 4}},
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


# --- Kinds of data ---------------------------------------------------------------------------------------------------

NET = {"name": f"{HERE}:tiny_net"}
POINTING = [{"measure": "pointing_game", "arguments": {"tolerance": 3}}, {"measure": "class_sensitivity"}]


def of(tmp_path, data, **changes):
    return evaluated(tmp_path / "results", **{"model": NET, "layers": ["conv1", "conv2"], "data": data} | changes)


def test_scenes_by_start_and_every(tmp_path):
    whole = evaluated(tmp_path / "whole", data={"n": 7}, run={"batch_size": 1})
    some = evaluated(tmp_path / "some", data={"n": 3, "start": 1, "every": 2}, run={"batch_size": 1})
    assert [row.name for row in some.images()] == ["scene 1", "scene 3", "scene 5"]
    expected = [row for row in whole.rows("class_sensitivity") if row.image in (1, 3, 5)]
    assert [row.value for row in some.rows("class_sensitivity")] == [row.value for row in expected]


@pytest.mark.parametrize("resize", ["short", "square"])
def test_voc(resize, tmp_path):
    data = {"kind": "voc", "root": str(voc_tree(tmp_path)), "size": 24, "resize": resize}
    results = of(tmp_path, data, measures=POINTING)
    assert [row.name for row in results.images()] == [f"{i:06d}.jpg" for i in range(6)]
    wanted = {(i, plans_class(name)) for i, objects in enumerate(plans.OBJECTS) for name, _ in objects}
    assert {key for key, row in results.targets().items() if row.present} == wanted
    from torchvision.datasets import VOCDetection
    from torchvision.transforms.v2 import functional as TF

    from captum_extract_aggregate.data import voc_pairs

    items, net = VOCDetection(str(tmp_path), "2007", "test"), plans.tiny_net().eval()
    hits = []
    for i in range(6):
        picture, annotation = items[i]
        width, height = picture.size
        scale = 24 / min(width, height)
        size = [24, 24] if resize == "square" else [round(height * scale), round(width * scale)]
        x = TF.to_dtype(TF.to_image(TF.resize(picture, size, antialias=True)), torch.float32, scale=True)
        x = TF.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]).as_subclass(torch.Tensor)[None]
        pairs, method = voc_pairs(annotation), cea.NormGrad(net, "conv2")
        maps = torch.cat([method.attribute(x, target=c) for c in pairs.classes])
        hits += cea.metrics.pointing_game(maps, pairs.masks, 3).tolist() if hasattr(cea, "metrics") else []
    got = values(results, "pointing_game", method="normgrad", layer="conv2")
    assert got.bool().tolist() == hits
    difficult = {key for key, row in results.targets().items() if row.difficult}
    assert difficult <= {key for key, row in results.targets().items() if row.classes > 1}
    assert difficult


def plans_class(name):
    from captum_extract_aggregate.data.pointing_pairs import VOC_CLASSES

    return VOC_CLASSES.index(name)


def test_coco(tmp_path):
    pytest.importorskip("pycocotools")
    results = of(tmp_path, coco_tree(tmp_path), measures=POINTING, model={"name": f"{HERE}:net_of_two_classes"})
    assert [row.name for row in results.images()] == [f"{i}.png" for i in range(4)]
    present = {key for key, row in results.targets().items() if row.present}
    assert present == {(0, 0), (1, 0), (1, 1), (2, 0), (3, 0), (3, 1)}
    assert len(results.rows("pointing_game", method="normgrad", layer="conv1")) == 6
    assert results.complete


def test_folders_and_lists(tmp_path):
    root = picture_folder(tmp_path / "pictures")
    of_folder = of(tmp_path, {"kind": "folder", "root": str(root), "size": 24})
    assert [(row.name, row.label) for row in of_folder.images()] == [
        ("ants/0.png", 0),
        ("ants/2.png", 0),
        ("bees/1.png", 1),
        ("bees/3.png", 1),
    ]
    lines = "".join(f"{row.name}\t{row.label}\tsome name\n" for row in of_folder.images())
    (root / "list.tsv").write_text(lines + "\n")
    (tmp_path / "elsewhere.txt").write_text(lines.replace("\t0\tsome name", ""))
    for i, data in enumerate(
        ({"file": str(root / "list.tsv")}, {"file": str(tmp_path / "elsewhere.txt"), "root": str(root)})
    ):
        of_list = of(tmp_path / str(i), {"kind": "list", "size": 24} | data)
        assert [r.value for r in of_list.rows("class_sensitivity")] == [
            r.value for r in of_folder.rows("class_sensitivity")
        ]
        assert [row.label for row in of_list.images()] == ([0, 0, 1, 1] if i == 0 else [-1, -1, 1, 1])


def test_a_folder_below_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    picture_folder(tmp_path / "pictures")
    assert of(tmp_path, {"kind": "folder", "root": "~/pictures", "size": 24}).complete


def test_tensors_of_ones_own(tmp_path):
    data = {"kind": "custom", "dataset": f"{HERE}:tensors", "arguments": {"count": 5}}
    results = of(tmp_path, data)
    assert [row.label for row in results.images()] == [0, 1, 2, 0, 1]
    x = torch.stack([plans.tensors(5)[i][0] for i in range(5)])
    net = plans.tiny_net().eval()
    expected = class_sensitivity(Summed24(cea.NormGrad(net, "conv2")), x, net)
    assert close(values(results, "class_sensitivity", layer="conv2"), expected)


class Summed24(Summed):
    def __call__(self, inputs, target):
        m = self.method.attribute(inputs, target=target).detach()
        return nn.functional.interpolate(m, inputs.shape[2:], mode="bilinear", align_corners=False)


def test_objects_of_ones_own(tmp_path):
    results = of(tmp_path, {"kind": "custom", "dataset": f"{HERE}:tensors_with_pairs"}, measures=POINTING)
    assert {key for key, row in results.targets().items() if row.present} == {(i, c) for i in range(3) for c in (0, 2)}


def test_pictures_with_objects_are_not_cropped(tmp_path):
    """A crop does not show what the masks of the whole picture show: refused, or the whole picture is taken."""
    data = {"kind": "custom", "dataset": f"{HERE}:pictures_with_pairs", "size": 24}
    with pytest.raises(ValueError, match="resize"):
        of(tmp_path / "crop", data | {"resize": "crop"}, measures=POINTING)
    for resize, expected in (("short", (24, 48)), ("square", (24, 24))):
        results = of(tmp_path / resize, data | {"resize": resize}, measures=POINTING)
        assert {(m.image_height, m.image_width) for m in results.maps()} == {expected}
    try:
        default = of(tmp_path / "default", data, measures=POINTING)
    except ValueError:
        return
    assert {(m.image_height, m.image_width) for m in default.maps()} == {(24, 48)}


def test_images_of_several_sizes_in_a_batch(tmp_path):
    root = str(voc_tree(tmp_path))
    together, alone = (
        of(tmp_path / str(n), {"kind": "voc", "root": root, "size": 24}, measures=POINTING, run={"batch_size": n})
        for n in (6, 1)
    )
    assert [row[:6] for row in together.rows("pointing_game")] == [row[:6] for row in alone.rows("pointing_game")]
    assert close(values(together, "class_sensitivity"), values(alone, "class_sensitivity"), 1e-3)
    assert together.maps() == alone.maps()


# --- Images that cannot be read --------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [(1,), (0, 1), (0, 3, 5), (0, 1, 2, 3, 4)])
def test_unreadable_images(broken, tmp_path):
    data = {"kind": "voc", "root": str(voc_tree(tmp_path, broken)), "size": 24}
    with pytest.raises(ValueError, match=rf'image {broken[0]} cannot be read: .* with on_error = "skip"') as caught:
        of(tmp_path / "stop", data, measures=POINTING)
    assert "\n" not in str(caught.value)
    results = of(tmp_path / "skip", data, measures=POINTING, run={"batch_size": 2, "on_error": "skip"})
    assert [row.image for row in results.skipped()] == list(broken)
    assert all("cannot be read" in row.skipped for row in results.skipped())
    assert results.complete
    assert {row.image for row in results.rows("class_sensitivity")} == set(range(6)) - set(broken)
    assert {row.image for row in results.targets().values()} == set(range(6)) - set(broken)


def test_all_images_unreadable(tmp_path):
    data = {"kind": "voc", "root": str(voc_tree(tmp_path, range(6))), "size": 24}
    with pytest.raises(ValueError, match="none of the first images can be read"):
        of(tmp_path, data, run={"on_error": "skip"})
    assert not (tmp_path / "results").exists()


def test_stopped_at_an_unreadable_image_and_mended(tmp_path):
    data = {"kind": "voc", "root": str(voc_tree(tmp_path, (4,))), "size": 24}
    with pytest.raises(ValueError, match="image 4 cannot be read"):
        of(tmp_path, data)
    assert len(Results(tmp_path / "results").images()) == 4
    voc_tree(tmp_path)
    assert dump(of(tmp_path, data)) == dump(of(tmp_path / "whole", data))


@pytest.mark.parametrize("error", ["OSError", "RuntimeError", "KeyError"])
@pytest.mark.parametrize("broken", [0, 2])
def test_ones_own_data_set_fails(error, broken, tmp_path):
    arguments = {"count": 4, "broken": [broken], "error": error}
    data = {"kind": "custom", "dataset": f"{HERE}:tensors", "arguments": arguments}
    results = of(tmp_path / "skip", data, run={"batch_size": 2, "on_error": "skip"})
    assert [row.image for row in results.skipped()] == [broken]
    assert len(results.rows("class_sensitivity", layer="conv1")) == 3
    with pytest.raises(ValueError, match=f"image {broken} cannot be read.*is damaged"):
        of(tmp_path / "stop", data)


def test_objects_of_some_images_only(tmp_path, monkeypatch):
    """The first image has objects, and the second a class index alone."""
    item = plans.WithPairs.__getitem__
    (tmp_path / "mixed.py").write_text(
        "from tests.evaluation.plans import WithPairs\n"
        "class Mixed(WithPairs):\n"
        "    def __getitem__(self, i):\n"
        "        x, pairs = super().__getitem__(i)\n"
        "        return x, pairs if i != 1 else 2\n"
        "def mixed(): return Mixed(3)\n"
    )
    data = {"kind": "custom", "dataset": f"{tmp_path / 'mixed.py'}:mixed"}
    results = of(tmp_path, data, measures=POINTING, run={"on_error": "skip"})
    assert {row.image for row in results.rows("pointing_game")} == {0, 2}
    assert item is plans.WithPairs.__getitem__


# --- Kinds of models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "layers", "classes"),
    [
        ({"name": "timm:resnet18", "weights": "random", "num_classes": 7}, ["layer2", "layer3"], 7),
        ({"name": "resnet18", "weights": "random", "num_classes": 6}, ["layer2", "layer3"], 6),
        ({"name": "squeezenet1_1", "weights": "random"}, ["features.5"], 1000),
        ({"name": f"{HERE}:tiny_net"}, ["conv2"], 20),
    ],
)
def test_models(model, layers, classes, tmp_path):
    if model["name"].startswith("timm"):
        pytest.importorskip("timm")
    data = {"kind": "folder", "root": str(picture_folder(tmp_path / "pictures", 2)), "size": 64}
    results = evaluated(tmp_path / "results", model=model, layers=layers, data=data)
    assert results.complete
    assert len(results.rows("class_sensitivity")) == 2 * len(layers)
    assert max(target for _, target in results.targets()) < classes
    assert {m.layer for m in results.maps()} == set(layers)


def test_a_head_from_a_file(tmp_path):
    generator = torch.Generator().manual_seed(3)
    head = {"weight": torch.randn(3, 4, generator=generator), "bias": torch.randn(3, generator=generator)}
    torch.save(head, tmp_path / "head.pth")
    torch.save(plans.TinyNet(20).state_dict(), tmp_path / "weights.pth")
    model = {"name": f"{HERE}:tiny_net", "head": str(tmp_path / "head.pth"), "weights": str(tmp_path / "weights.pth")}
    results = of(tmp_path, {"kind": "custom", "dataset": f"{HERE}:tensors"}, model=model)
    net = plans.TinyNet(20)
    net.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    net.fc = nn.Linear(4, 3)
    net.fc.load_state_dict(head)
    x = torch.stack([plans.tensors()[i][0] for i in range(4)])
    scores = net.eval()(x).detach()
    for (i, target), row in results.targets().items():
        assert row.score == pytest.approx(float(scores[i, target]), rel=1e-4, abs=1e-5)
    assert {t for _, t in results.targets()} <= {0, 1, 2}


@needs_real_data
def test_real_networks_and_pictures(tmp_path):
    plain = content(
        data={"kind": "voc", "root": str(REAL_DATA), "n": 3, "size": 96},
        model={"name": "squeezenet1_1"}
        | {
            key: str(REAL_DATA / "models" / f"squeezenet1_1-{name}.pth")
            for key, name in (("weights", "imagenet"), ("head", "voc-head"))
        },
        layers=["features.7"],
        measures=[{"measure": "pointing_game"}],
    )
    results = run(plan_from(plain), tmp_path, show_progress=False)
    assert results.complete
    assert {row.value for row in results.rows("pointing_game")} <= {0.0, 1.0}
    assert len(results.rows("pointing_game", method="centre")) == sum(r.present for r in results.targets().values())


# --- Memory ----------------------------------------------------------------------------------------------------------


def test_rows_and_tensors_do_not_pile_up(tmp_path, monkeypatch):
    """What is alive while a batch is evaluated is as much for the thirtieth as for the third."""
    import gc

    from captum_extract_aggregate.evaluation import store

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
    for early, late in zip(alive[2], alive[-1]):
        assert late <= early * 1.02 + 8
