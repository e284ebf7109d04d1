"""What a plan names, built: models of every kind, and the classes that are explained."""

import pytest
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.evaluation import plan_from, run
from captum_extract_aggregate.metrics import class_sensitivity, pixel_removal
from tests.conftest import REAL_DATA, needs_real_data
from tests.evaluation import plans
from tests.evaluation.explaining import values
from tests.evaluation.plans import HERE, content, evaluated, of, picture_folder
from tests.evaluation.wrong_plans import check_refused, measures, model, tiny


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


@pytest.mark.parametrize("form", ["one_output", "one_number"])
def test_the_signs_are_the_classes(form, tmp_path):
    results = evaluated(
        tmp_path / "results",
        model={"name": f"{HERE}:{form}"},
        layers=["conv2"],
        data={"kind": "custom", "dataset": f"{HERE}:tensors"},
        methods=[{"method": "gradcam"}, {"method": "gradcam", "meta_saliency": {"lr": 0.1}, "label": "meta"}],
        measures=[
            {"measure": "class_sensitivity"},
            {"measure": "pixel_removal", "arguments": {"step": 64}},
            {"measure": "completeness_gap"},
            {"measure": "parameter_randomization", "arguments": {"layers": ["fc"]}},
        ],
    )
    assert results.complete
    net, x = getattr(plans, form)().eval(), torch.stack([plans.tensors()[i][0] for i in range(4)])
    f = net(x).detach().flatten()
    for (i, target), row in results.targets().items():
        assert row.score == pytest.approx(float(f[i] if target else -f[i]), rel=1e-4, abs=1e-6)
    method = cea.GradCAM(net, net.conv2)
    expected = class_sensitivity(method, x, net)
    torch.testing.assert_close(values(results, "class_sensitivity", method="gradcam"), expected, rtol=1e-4, atol=1e-4)
    meta = class_sensitivity(cea.MetaSaliency(method, lr=0.1), x, net)
    torch.testing.assert_close(values(results, "class_sensitivity", method="meta"), meta, rtol=1e-3, atol=1e-3)
    best = torch.cat(
        [cea.GradCAM(_of_sign(net, 1 if f[i] > 0 else -1), net.conv2).attribute(x[i : i + 1]) for i in range(4)]
    )
    removed = pixel_removal(net, x, best, step=64)
    got = values(results, "pixel_removal", detail="e_minus", method="gradcam")
    torch.testing.assert_close(got, removed.e.double(), rtol=1e-4, atol=1e-4)


def _of_sign(net, sign):
    return lambda t: sign * net(t).flatten()


def test_a_probability_is_refused(tmp_path):
    with pytest.raises(ValueError, match="comes out of a sigmoid"):
        evaluated(
            tmp_path / "results",
            model={"name": f"{HERE}:one_probability"},
            layers=["conv2"],
            data={"kind": "custom", "dataset": f"{HERE}:tensors"},
        )


WRONG = {
    "other classes than weights": (
        model(name="resnet18", weights="DEFAULT", num_classes=7),
        "num_classes is 7, but weights 'DEFAULT' of 'resnet18' are for 1000 classes",
    ),
    "more classes than memory": (model(name="resnet18", weights="random", num_classes=10**9), "num_classes is 10{9}"),
    "other classes than one's own model": (
        tiny(model={"name": f"{HERE}:tiny_net", "num_classes": 3}),
        "gives 20 scores",
    ),
    "an unknown layer that no method takes": (
        content(methods=[{"method": "normgrad", "layers": ["layer3"]}], layers=["layer33"]),
        "'layer33'.*'layer3'",
    ),
    "an unknown layer of the plan": (content(layers=["layer33"]), "'layer33'.*'layer3'"),
    "an unknown model": (model(name="resnet51"), "model is 'resnet51', .* did you mean .*'resnet50'"),
    "an unknown model of timm's": (model(name="timm:resnet181", weights="random"), "'resnet181', .*'resnet18"),
    "a model's file that is not there": (model(name="nowhere.py:net"), "there is no file 'nowhere.py'"),
    "a model's function that is not there": (model(name=f"{HERE}:tiny_nett"), "did you mean 'tiny_net'"),
    "a model's function that fails": (model(name=f"{HERE}:crashing_net"), "failed: .*out of order"),
    "a model's function that gives no model": (model(name=f"{HERE}:no_net"), "returned a str; expected a torch"),
    "a module that cannot be imported": (model(name="nowhere_at_all:net"), "cannot be imported"),
    "weights that are not there": (model(name="resnet18", weights="nowhere.pth"), "there is no such file"),
    "a model without weights": (model(name="resnet18"), "has no weights; expected"),
    "weights for a scene network": (model(name="scene-vgg", weights="x.pth"), "brings its own; expected none"),
    "a head that is not there": (model(head="nowhere.pth"), "'nowhere.pth'.*there is no such file"),
    "an unknown measure": (measures("pointing"), "measure is 'pointing', .* 'pointing_game'"),
    "an unknown measure's file": (measures("nowhere.py:f"), "there is no file 'nowhere.py'"),
    "an unknown measure's function": (measures(f"{HERE}:totals"), "measure is 'totals', .* did you mean 'total'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_models_layers_and_measures(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_refused(*WRONG[case], tmp_path)


def test_heads_and_weights_that_do_not_fit(tmp_path):
    for name, content_ in {
        "head.pth": {"weight": torch.zeros(3, 7), "bias": torch.zeros(3)},
        "half.pth": {"weight": torch.zeros(3, 7)},
        "weights.pth": {"fc.weight": torch.zeros(2, 2)},
    }.items():
        torch.save(content_, tmp_path / name)
    (tmp_path / "text.pth").write_text("no tensors")
    for plain, message in (
        (model(head=str(tmp_path / "head.pth")), r"head .*head.pth' takes 7 features, and the last linear layer"),
        (model(head=str(tmp_path / "half.pth")), "expected a weight, classes x channels, and a bias"),
        (model(head=str(tmp_path / "text.pth")), "no state dict that can be read safely"),
        (model(name="resnet18", weights=str(tmp_path / "weights.pth")), "do not fit ResNet"),
    ):
        check_refused(plain, message, tmp_path)


def test_layers_of_a_kind_where_none_are_named(tmp_path):
    methods = [{"method": "gradient-weighted-attention"}, {"method": "gradcam"}]
    results = evaluated(tmp_path, model={"name": "scene-vit"}, layers=None, methods=methods, data={"n": 1})
    by_method = {}
    for row in results.maps():
        by_method.setdefault(row.method, []).append(row.layer)
    sample = torch.rand(1, 3, 96, 96)
    assert set(by_method["gradient-weighted-attention"]) == set(
        cea.attention_layers(cea.load_scene_model("vit"), sample)
    )
    assert set(by_method["gradcam"]) == set(cea.default_layers(cea.load_scene_model("vit"), sample))
