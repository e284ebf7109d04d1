"""Plans: wrong ones are refused with one clear line before there is a folder; right ones come back as they were."""

import dataclasses
import datetime
import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captum_extract_aggregate.evaluation import (
    CombinationPlan,
    DataPlan,
    MeasurePlan,
    MetaPlan,
    MethodPlan,
    ModelPlan,
    Plan,
    Results,
    RunPlan,
    load_plan,
    plan_from,
    plan_schema,
    run,
)
from captum_extract_aggregate.evaluation.data_kinds import list_datasets
from captum_extract_aggregate.evaluation.plan import RESIZES
from tests.evaluation.plans import HERE, content, picture_folder, voc_tree


def methods(**changes):
    return content(methods=[{"method": "normgrad"} | changes])


def measures(measure="class_sensitivity", **arguments):
    return content(measures=[{"measure": measure, "arguments": arguments}])


def combine(**changes):
    return content(methods=[{"method": "normgrad", "layers": ["layer2", "layer3"], "combine": [changes]}])


def data(**changes):
    return content(data={"n": 2} | changes)


def model(**changes):
    return content(model=changes)


def tiny(**changes):
    """On a network and tensors of one's own."""
    net = {"name": f"{HERE}:tiny_net"}
    custom = {"kind": "custom", "dataset": f"{HERE}:tensors", "size": 24}
    return content(**{"model": net, "data": custom, "layers": ["conv1"]} | changes)


def tiny_data():
    return {"data": {"kind": "custom", "dataset": f"{HERE}:tensors", "size": 24}, "layers": ["conv1"]}


WRONG = {
    # Wrong keys, at each level, with the nearest right one
    "a key of the plan": (content(measurements=[]), "'measurements', which is unknown; did you mean 'measures'"),
    "a key of data": (data(rooot="."), "a key of data is 'rooot', which is unknown; did you mean 'root'"),
    "a key of the model": (model(nam="vgg16"), "a key of model is 'nam', .* did you mean 'name'"),
    "a key of run": (content(run={"batchsize": 2}), "a key of run is 'batchsize', .* did you mean 'batch_size'"),
    "a key of a method": (methods(layer=["layer3"]), r"a key of methods\[0\] is 'layer', .* did you mean 'layers'"),
    "a key of a measure": (content(measures=[{"measur": "x"}]), r"a key of measures\[0\] is 'measur', .*'measure'"),
    "a key of a combination": (combine(weight="linear"), r"methods\[0\].combine\[0\] is 'weight', .* 'weights'"),
    "a key of meta-saliency": (methods(meta_saliency={"rate": 1}), r"methods\[0\].meta_saliency is 'rate'"),
    "a key that is like nothing": (content(zzz=1), "'zzz', which is unknown; expected one of 'methods', 'measures'"),
    # Missing parts
    "no methods": (content(methods=None), "lacks 'methods'"),
    "empty methods": (content(methods=[]), "methods is empty"),
    "empty measures": (content(measures=[]), "measures is empty"),
    "a method without a name": (content(methods=[{"label": "x"}]), r"methods\[0\] lacks 'method'"),
    # Wrong types
    "text for a number": (data(n="all"), "data.n is 'all'; expected a whole number"),
    "true for a number": (data(n=True), "data.n is True; expected a whole number"),
    "a fraction for a whole number": (content(run={"batch_size": 2.5}), "run.batch_size is 2.5; expected a whole"),
    "a number for text": (model(name=3), "model.name is 3; expected text"),
    "a number for true": (methods(meta_saliency={"ascent": 1}), "ascent is 1; expected true or false"),
    "text for a list": (content(layers="layer3"), "layers is 'layer3'; expected a list"),
    "a list for a table": (content(data=[]), r"data is \[\]; expected a table"),
    "text for a table": (methods(arguments="rule"), "arguments is 'rule'; expected a table"),
    "text for a method": (content(methods=["normgrad"]), r"methods\[0\] is 'normgrad'; expected a table"),
    "true for meta-saliency": (methods(meta_saliency=True), "meta_saliency is True; expected a table"),
    "text among weights": (combine(weights=[1, "2"]), r"weights\[1\] is '2'; expected a number"),
    "a number for weights": (combine(weights=2), "weights is 2; expected text"),
    "an infinite rate": (methods(meta_saliency={"lr": float("inf")}), "lr is inf; expected a finite number"),
    # Wrong values
    "an unknown kind": (data(kind="cocoa"), "data.kind is 'cocoa', .* did you mean 'coco'"),
    "an unknown resize": (data(resize="squared"), "data.resize is 'squared', .* did you mean 'square'"),
    "an unknown split": (data(split="tests"), "split is 'tests'"),
    "a negative number of images": (data(n=-1), "data.n is -1; expected at least 0"),
    "every zeroth image": (data(every=0), "data.every is 0; expected at least 1"),
    "a size of the scenes": (data(size=64), "data.size is 64, but does not apply to data of the kind 'scenes'"),
    "a mean of the scenes": (data(mean=[0.5]), "data.mean is .* does not apply to data of the kind 'scenes'"),
    "a root of the scenes": (data(root="."), "data.root is '.', but does not apply .*left out"),
    "a seed of a folder": (data(kind="folder", root=".", seed=1), "data.seed is 1, but does not apply"),
    "a split of a list": (data(kind="list", file="x", split="train"), "data.split is 'train', but does not apply"),
    "a root of one's own": (data(kind="custom", dataset="a:b", root="."), "data.root is '.', but does not apply"),
    "far too many scenes": (data(n=10**15), "data.n is 1000000000000000, .*expected scenes up to"),
    "a number of any size": (data(n=10**30), "data.n is 10{30}; expected at most"),
    "a huge size": (data(kind="folder", root=".", size=10**6), "data.size is 1000000; expected at most 16384"),
    "a NUL in text": (data(kind="folder", root="a\0b"), "data.root is 'a.*b'; expected text without NUL"),
    "fewer classes than none": (model(name="resnet18", num_classes=-3), "model.num_classes is -3; expected at least 0"),
    "other classes than weights": (
        model(name="resnet18", weights="DEFAULT", num_classes=7),
        "num_classes is 7, but weights 'DEFAULT' of 'resnet18' are for 1000 classes",
    ),
    "more classes than memory": (model(name="resnet18", weights="random", num_classes=10**9), "num_classes is 10{9}"),
    "other classes than one's own model": (
        tiny(model={"name": f"{HERE}:tiny_net", "num_classes": 3}),
        "gives 20 scores",
    ),
    "too many threads": (content(run={"threads": 100000}), "run.threads is 100000; expected at most .* cores"),
    "a device without numbers": (content(run={"device": "meta"}), "run.device is 'meta', which cannot be used here"),
    "a device of another machine": (content(run={"device": "mps"}), "run.device is 'mps', which cannot be used here"),
    "steps without end": (methods(meta_saliency={"steps": 10**6}), "meta_saliency.steps is 1000000; expected 1 to"),
    "an unknown layer that no method takes": (
        content(methods=[{"method": "normgrad", "layers": ["layer3"]}], layers=["layer33"]),
        "'layer33'.*'layer3'",
    ),
    "a method of Captum's that refuses the model": (
        methods(method="captum:DeepLift") | {"model": {"name": f"{HERE}:module_of_one_relu"}} | tiny_data(),
        "method 'captum:DeepLift' cannot explain this model",
    ),
    "two means": (data(mean=[0.5, 0.5]), "data.mean is .* expected one number or three"),
    "a deviation of 0": (data(std=[0]), "data.std is .* above 0"),
    "no batch": (content(run={"batch_size": 0}), "run.batch_size is 0; expected at least 1"),
    "no thread": (content(run={"threads": 0}), "run.threads is 0; expected at least 1"),
    "a negative seed": (content(run={"seed": -1}), "run.seed is -1; expected at least 0"),
    "an unknown device": (content(run={"device": "gpu"}), "device is 'gpu'|device.*gpu"),
    "unknown on_error": (content(run={"on_error": "skipp"}), "run.on_error is 'skipp', .* did you mean 'skip'"),
    "unknown channels": (methods(channels="max"), r"methods\[0\].channels is 'max', .* 'max_abs'"),
    "unknown interpolation": (methods(interpolation="linear"), "interpolation is 'linear', .* 'bilinear'"),
    "an unknown mode": (combine(mode="products"), r"combine\[0\].mode is 'products', .* 'product'"),
    # Names
    "an unknown method": (methods(method="normgrat"), "method is 'normgrat', .* did you mean 'normgrad'"),
    "an unknown extract": (methods(method="conv3x4:norm"), "'conv3x4'"),
    "an unknown aggregate": (methods(method="conv3x3:nrom"), "'nrom'"),
    "an unknown method of Captum's": (methods(method="captum:LayerGradCAM"), "did you mean 'captum:LayerGradCam'"),
    "an unknown measure": (measures("pointing"), "measure is 'pointing', .* 'pointing_game'"),
    "an unknown measure's file": (measures("nowhere.py:f"), "there is no file 'nowhere.py'"),
    "an unknown measure's function": (measures(f"{HERE}:totals"), "measure is 'totals', .* did you mean 'total'"),
    "an unknown similarity": (measures(similarity="spearmen"), "similarity is 'spearmen', .* 'spearman'"),
    "an unknown layer of the plan": (content(layers=["layer33"]), "'layer33'.*'layer3'"),
    "an unknown layer of a method": (methods(layers=["later2"]), "'later2'.*'layer2'"),
    "an unknown model": (model(name="resnet51"), "model is 'resnet51', .* did you mean .*'resnet50'"),
    "an unknown model of timm's": (model(name="timm:resnet181", weights="random"), "'resnet181', .*'resnet18"),
    "a model's file that is not there": (model(name="nowhere.py:net"), "there is no file 'nowhere.py'"),
    "a model's function that is not there": (model(name=f"{HERE}:tiny_nett"), "did you mean 'tiny_net'"),
    "a model's function that fails": (model(name=f"{HERE}:crashing_net"), "failed: .*out of order"),
    "a model's function that gives no model": (model(name=f"{HERE}:no_net"), "returned a str; expected a torch"),
    "a model of pictures": (tiny(model={"name": f"{HERE}:net_of_pictures"}), r"gives \(1, 3, .*\); expected scores"),
    "a module that cannot be imported": (model(name="nowhere_at_all:net"), "cannot be imported"),
    "the same label twice": (content(methods=[{"method": "gradcam"}] * 2), "names 'gradcam' twice"),
    "the same measure twice": (content(measures=[{"measure": "class_sensitivity"}] * 2), "'class_sensitivity' twice"),
    "a label that is another's name": (
        content(methods=[{"method": "gradcam"}, {"method": "normgrad", "label": "gradcam"}]),
        "methods names 'gradcam' twice",
    ),
    "the same layer twice": (content(layers=["layer3", "layer3"]), "'layer3' twice"),
    "the same layer of a method twice": (methods(layers=["layer3", "layer2", "layer3"]), "'layer3' twice"),
    "the same combination twice": (
        content(methods=[{"method": "normgrad", "layers": ["layer2", "layer3"], "combine": [{}, {}]}]),
        "'product, uniform' twice",
    ),
    "two combinations with weights of their own": (
        content(
            methods=[
                {"method": "normgrad", "layers": ["layer2", "layer3"]}
                | {"combine": [{"weights": [1, 2]}, {"weights": [2, 1]}]}
            ]
        ),
        "'product, own weights' twice",
    ),
    "a combination named like a layer": (combine(label="layer3"), "'layer3' twice"),
    # Files
    "weights that are not there": (model(name="resnet18", weights="nowhere.pth"), "there is no such file"),
    "a model without weights": (model(name="resnet18"), "has no weights; expected"),
    "weights for a scene network": (model(name="scene-vgg", weights="x.pth"), "brings its own; expected none"),
    "a head that is not there": (model(head="nowhere.pth"), "'nowhere.pth'.*there is no such file"),
    "VOC without a root": (data(kind="voc"), "data.root is empty; expected it for data of the kind 'voc'"),
    "COCO without annotations": (data(kind="coco", root="."), "data.file is empty"),
    "a list without a file": (data(kind="list"), "data.file is empty"),
    "custom without a data set": (data(kind="custom"), "data.dataset is empty"),
    "VOC that is not there": (data(kind="voc", root="nowhere"), "'voc' cannot be opened with root 'nowhere'"),
    "a year that VOC has not": (data(kind="voc", root="nowhere", year="1999"), "cannot be opened.*1999"),
    "COCO that is not there": (data(kind="coco", root="nowhere", file="nowhere.json"), "'coco' cannot be opened"),
    "a folder that is not there": (data(kind="folder", root="nowhere"), "'folder' cannot be opened"),
    "a list that is not there": (data(kind="list", file="nowhere.txt"), "'nowhere.txt', and there is no such file"),
    "a data set's file that is not there": (data(kind="custom", dataset="nowhere.py:d"), "no file 'nowhere.py'"),
    "an argument that a data set has not": (
        data(kind="custom", dataset=f"{HERE}:tensors", arguments={"number": 3}),
        "failed: .*unexpected keyword argument 'number'",
    ),
    "a data set that is none": (data(kind="custom", dataset=f"{HERE}:no_net"), "image 0 cannot be read|a str"),
    "an empty data set": (data(kind="custom", dataset=f"{HERE}:tensors", arguments={"count": 0}), "there are 0 images"),
    "a start behind the end": (
        data(kind="custom", dataset=f"{HERE}:tensors", start=4),
        "data.start is 4, but there are 4 images",
    ),
    "weights in a file that is not there": (combine(weights="nowhere.json"), "'nowhere.json', and there is no such"),
    # Arguments
    "an argument that a method has not": (methods(arguments={"gama": 1}), "method 'normgrad': .*'gama'"),
    "an argument that Captum's has not": (
        methods(method="captum:LayerGradCam", arguments={"gama": 1}),
        "method 'captum:LayerGradCam': .*'gama'",
    ),
    "a value that a method refuses": (methods(method="rectgrad", arguments={"percentile": 200}), "percentile is 200"),
    "an argument that a measure has not": (measures(similarty="ssim"), "'similarty', .* did you mean 'similarity'"),
    "an argument for a measure that takes none": (measures("completeness_gap", eps=1), "takes none"),
    "an argument that one's own measure has not": (measures(f"{HERE}:total", fator=2), "fator"),
    "an unknown order": (measures("parameter_randomization", order="cascade"), "order is 'cascade'.*'cascading'"),
    "an unknown init": (measures("parameter_randomization", init="nrmal"), "init is 'nrmal'.*'normal'"),
    "no seeds": (measures("parameter_randomization", n_seeds=0), "n_seeds is 0"),
    "an unknown stage": (measures("parameter_randomization", layers=["layer9"]), "'layer9'"),
    "an unknown similarity of the randomisation": (measures("parameter_randomization", similarity="x"), "'x'"),
    "a step of 0": (measures("pixel_removal", step=0), "step is 0"),
    "a step that is text": (measures("pixel_removal", step="1"), "step is '1'"),
    "a tolerance of 0": (measures("pointing_game", tolerance=0), "tolerance is 0"),
    "a tolerance that is text": (measures("pointing_game", tolerance="15"), "tolerance is '15'"),
    "no shuffles": (measures("removal_contrast", n_shuffles=0, step=4096), "n_shuffles is 0"),
    "more shuffles than other images": (measures("removal_contrast", n_shuffles=3, step=4096), "n_shuffles is 3"),
    "a date": (data(arguments={"since": datetime.date(2020, 1, 1)}), "arguments"),
    # What does not go together
    "weights of the wrong number": (combine(weights=[1, 2, 3]), "weights has 3 numbers for 2 layers"),
    "negative weights": (combine(weights=[1, -2]), "weights are .* expected numbers of at least 0"),
    "unknown weights": (combine(weights="linaer"), "weights is 'linaer', .* did you mean 'linear'"),
    "a combination of one layer": (methods(combine=[{}]), "nothing to combine; expected several layers"),
    "a combination of an input map": (
        content(methods=[{"method": "captum:Saliency", "combine": [{}], "layers": ["layer2", "layer3"]}]),
        "nothing to combine",
    ),
    "a combination of joined layers": (
        content(methods=[{"method": "fullgrad", "combine": [{}], "layers": ["layer2", "layer3"]}]),
        "nothing to combine",
    ),
    "removal_contrast one by one": (
        content(measures=[{"measure": "removal_contrast"}], run={"batch_size": 1}),
        "run.batch_size is 1, but removal_contrast",
    ),
    "removal_contrast of one image": (
        content(measures=[{"measure": "removal_contrast", "arguments": {"step": 4096}}], data={"n": 1}),
        "removal_contrast",
    ),
    "pointing without objects": (tiny(measures=[{"measure": "pointing_game"}]), "'pointing_game' needs .* objects"),
    "restricted pointing without objects": (
        tiny(measures=[{"measure": "restricted_pointing_game"}]),
        "'restricted_pointing_game' needs",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_plans(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain, message = WRONG[case]
    with pytest.raises(ValueError, match=message) as caught:
        run(plan_from(plain), tmp_path / "results", show_progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "results").exists()


def test_wrong_plans_with_files(tmp_path):
    """Files that are there, but not what they should be."""

    def file(name, text):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    torch.save({"weight": torch.zeros(3, 7), "bias": torch.zeros(3)}, tmp_path / "head.pth")
    torch.save({"weight": torch.zeros(3, 7)}, tmp_path / "half.pth")
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "weights.pth")
    (tmp_path / "empty").mkdir()
    folder, voc = str(picture_folder(tmp_path / "folder")), str(voc_tree(tmp_path))
    pointing = [{"measure": "pointing_game"}]
    for plain, message in (
        (model(head=str(tmp_path / "head.pth")), r"head .*head.pth' takes 7 features, and the last linear layer"),
        (model(head=str(tmp_path / "half.pth")), "expected a weight, classes x channels, and a bias"),
        (model(head=file("text.pth", "no tensors")), "no state dict that can be read safely"),
        (model(name="resnet18", weights=str(tmp_path / "weights.pth")), "do not fit ResNet"),
        (data(kind="folder", root=str(tmp_path / "empty")), "'folder' cannot be opened"),
        (data(kind="list", file=file("empty.txt", "\n\n")), "there are 0 images"),
        (data(kind="list", file=file("bad.txt", "a.png\t1\nb.png\tdog\n")), r"line 2 of .*bad.txt' is 'b.png\\tdog'"),
        (data(kind="list", file=file("gone.txt", "gone.png\t1\n")), "none of the first images can be read; .*gone.png"),
        (data(kind="coco", root=folder, file=file("no.json", "{")), "'coco' cannot be opened"),
        (data(kind="coco", root=folder, file=file("list.json", "[]")), "'coco' cannot be opened"),
        (data(kind="coco", root=folder, file=file("empty.json", "{}")), "'coco' cannot be opened"),
        (combine(weights=file("no-weights.json", "{")), "no-weights.json"),
        (combine(weights=file("other.json", '{"gamma": 1}')), "other.json"),
        (combine(weights=file("half.json", '{"weights": {"layer2": 1}}')), "weights name 1 layers"),
        (combine(weights=file("text.json", '{"weights": {"layer2": 1, "layer3": "a"}}')), "text.json|number for each"),
        (tiny(data={"kind": "folder", "root": folder}, measures=pointing), "kind 'folder' has none"),
        (
            tiny(data={"kind": "voc", "root": voc, "resize": "crop"}, measures=pointing),
            "kind 'voc' with resize 'crop' has none",
        ),
        (
            tiny(data={"kind": "voc", "root": voc, "size": 32}, measures=[{"measure": "removal_contrast"}]),
            "data.resize is 'short', but removal_contrast",
        ),
        (
            content(data={"kind": "voc", "root": voc, "size": 32}, measures=pointing),
            "the model has 10 classes, and the data 20",
        ),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            run(plan_from(plain), tmp_path / "results", show_progress=False)
        assert "\n" not in str(caught.value), plain
        assert not (tmp_path / "results").exists(), plain


def test_files_that_are_no_plans(tmp_path):
    path = tmp_path / "plan.toml"
    with pytest.raises(ValueError, match="and there is no such file"):
        load_plan(path)
    for written, message in (
        (b"methods = [", "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        (b"[run]\nseed = 1\nseed = 2\n", "is not TOML"),
        (b"", "lacks 'methods'"),
        (b"measures = []\n[methods]\nmethod = 'normgrad'\n", r"methods is \{'method': 'normgrad'\}; expected a list"),
    ):
        path.write_bytes(written)
        with pytest.raises(ValueError, match=message) as caught:
            load_plan(path)
        assert "\n" not in str(caught.value)


def test_a_file_that_is_a_plan(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(
        """
        title = "All of it"
        layers = ["layer2", "layer3"]
        [data]
        n = 5
        mean = [0]
        [model]
        name = "scene-vgg"
        [run]
        batch_size = 3
        [[methods]]
        method = "normgrad"
        combine = [{ mode = "sum", weights = [1, 2.5] }, { weights = "linear" }]
        [[methods]]
        method = "gradcam"
        label = "after a step"
        meta_saliency = { lr = 1, ascent = true }
        [[measures]]
        measure = "pixel_removal"
        arguments = { step = 64 }
        """
    )
    expected = Plan(
        methods=(
            MethodPlan("normgrad", combine=(CombinationPlan("sum", (1.0, 2.5)), CombinationPlan(weights="linear"))),
            MethodPlan("gradcam", "after a step", meta_saliency=MetaPlan(lr=1.0, ascent=True)),
        ),
        measures=(MeasurePlan("pixel_removal", arguments={"step": 64}),),
        data=DataPlan(n=5, mean=(0.0,)),
        model=ModelPlan("scene-vgg"),
        run=RunPlan(batch_size=3),
        layers=("layer2", "layer3"),
        title="All of it",
    )
    assert load_plan(path) == expected
    assert load_plan(path).hash() == expected.hash()


# --- There and back --------------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=6)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 5)
ARGUMENTS = st.dictionaries(
    NAMES, st.recursive(NAMES | NUMBERS | st.booleans(), lambda v: st.lists(v, max_size=2), max_leaves=3), max_size=2
)


def lists(of, most=3):
    return st.lists(of, max_size=most).map(tuple)


COMBINATIONS = st.builds(
    CombinationPlan,
    mode=st.sampled_from(["product", "sum"]),
    weights=st.sampled_from(["uniform", "linear", "a.json"]) | lists(NUMBERS),
    label=NAMES,
)
METHODS = st.builds(
    MethodPlan,
    method=st.sampled_from(["normgrad", "gradcam", "conv3x3:norm"]),
    label=NAMES,
    layers=lists(NAMES),
    arguments=ARGUMENTS,
    channels=st.sampled_from(["sum", "max_abs", "abs_sum"]),
    combine=lists(COMBINATIONS, 2),
    meta_saliency=st.none()
    | st.builds(MetaPlan, lr=NUMBERS, ascent=st.booleans(), loss_func=NAMES, steps=st.integers(1, 3)),
    interpolation=st.sampled_from(["bilinear", "nearest"]),
)
DATA = st.builds(
    DataPlan,
    kind=st.sampled_from(list_datasets()),
    root=st.just("somewhere"),
    file=st.just("a file"),
    dataset=st.just("a.py:b"),
    arguments=ARGUMENTS,
    n=st.integers(0, 9),
    every=st.integers(1, 9),
    resize=st.sampled_from(["", *RESIZES]),
    mean=st.just(()) | st.tuples(NUMBERS) | st.tuples(NUMBERS, NUMBERS, NUMBERS),
)
PLANS = st.builds(
    Plan,
    methods=st.lists(METHODS, min_size=1, max_size=3, unique_by=lambda m: m.label or m.method).map(tuple),
    measures=st.lists(st.builds(MeasurePlan, measure=NAMES, arguments=ARGUMENTS), min_size=1, max_size=1).map(tuple),
    data=DATA,
    model=st.builds(ModelPlan, name=NAMES, num_classes=st.integers(0, 9)),
    run=st.builds(RunPlan, batch_size=st.integers(1, 9), seed=st.integers(0, 9), on_error=st.just("skip")),
    layers=lists(NAMES),
    title=NAMES,
)


def no_repeats(plan):
    """Whether no layer and no combination comes twice (such plans may be refused)."""
    groups = [plan.layers, *(m.layers for m in plan.methods)]
    groups += [[c.label or (c.mode, c.weights) for c in m.combine] for m in plan.methods]
    return all(len(set(g)) == len(g) for g in groups) and all(len(m.combine) < 2 for m in plan.methods)


@given(plan=PLANS.filter(no_repeats))
def test_there_and_back(plan):
    through_json = json.loads(json.dumps(plan.as_dict()))
    again = plan_from(through_json)
    assert again == plan
    assert again.hash() == plan.hash()
    assert again.as_dict() == plan.as_dict()
    assert plan_from(plan.as_dict()) == plan


FULL = Plan(
    methods=(
        MethodPlan(
            "normgrad",
            "a",
            ("layer2",),
            {"x": 1},
            "sum",
            (CombinationPlan("sum", (1.0, 2.0), "c"),),
            MetaPlan(0.5, False, "cross_entropy", 1),
        ),
    ),
    measures=(MeasurePlan("class_sensitivity", "m", {"similarity": "ssim"}),),
    layers=("layer2",),
)


def changed(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return {
            "sum": "product",
            "bilinear": "nearest",
            "stop": "skip",
            "scenes": "folder",
            "": "square",
        }.get(value, value + "x")
    if isinstance(value, dict):
        return value | {"more": 1}
    return value + value[:1] if value else (0.5,)


def variants(value):
    """Each of the fields below, changed: its name, and the whole with it."""
    for f in dataclasses.fields(value):
        own = getattr(value, f.name)
        parts = own if isinstance(own, tuple) else (own,)
        if parts and dataclasses.is_dataclass(parts[0]):
            for name, other in variants(parts[0]):
                whole = (other, *parts[1:]) if isinstance(own, tuple) else other
                yield f"{f.name}.{name}", dataclasses.replace(value, **{f.name: whole})
            continue
        new = "captum:LayerGradCam" if own == "normgrad" and f.name == "method" else changed(own)
        new = ("layer2", "layer3") if f.name == "layers" else new
        new = "max_abs" if f.name == "channels" else new
        replaced = {f.name: new} | ({"root": "somewhere"} if new == "folder" else {})
        if f.name == "root" and value.kind == "scenes":
            replaced = {"root": "somewhere"}
        yield f.name, dataclasses.replace(value, **replaced)


def test_the_hash_changes_with_every_field_that_changes_a_number():
    hashes = {"": FULL.hash()}
    for name, plan in variants(FULL):
        assert plan != FULL, name
        if name in ("title", "run.on_error"):
            assert plan.hash() == FULL.hash()
            continue
        assert plan.hash() not in hashes.values(), name
        hashes[name] = plan.hash()
    fields = [Plan, DataPlan, ModelPlan, RunPlan, MethodPlan, CombinationPlan, MetaPlan, MeasurePlan]
    nested = {"methods", "measures", "data", "model", "run", "combine", "meta_saliency"}
    expected = sum(f.name not in nested for kind in fields for f in dataclasses.fields(kind)) - 2
    assert len(hashes) == 1 + expected
    other = dataclasses.replace(FULL, methods=(dataclasses.replace(FULL.methods[0], meta_saliency=None),))
    assert other.hash() not in hashes.values()


def test_the_hash_is_the_same_tomorrow():
    """Folders outlive versions: a hash that changes by itself makes them foreign."""
    plan = plan_from(content())
    assert plan.hash() == Plan(plan.methods, plan.measures, plan.data, plan.model, plan.run, plan.layers).hash()
    assert len(plan.hash()) == 16
    assert int(plan.hash(), 16) >= 0


def test_the_hash_is_the_same_as_ever():
    assert plan_from(content()).hash() == "b8554c62a0c087fc"
    assert FULL.hash() == "5f808792110cb255"


def test_parts_are_checked_as_soon_as_they_are_made():
    for make, message in (
        (lambda: DataPlan(n="3"), "data.n is '3'; expected a whole number"),
        (lambda: DataPlan(kind="list"), "data.file is empty; expected it for data of the kind 'list'"),
        (lambda: DataPlan(rooot="."), "a key of data is 'rooot', which is unknown; did you mean 'root'?"),
        (lambda: MethodPlan(), "method lacks 'method'; expected it"),
        (lambda: MethodPlan("normgrad", "label", "layer3"), "method.layers is 'layer3'; expected a list"),
        (lambda: MethodPlan("normgrad", combine=[{"mod": "sum"}]), "a key of method.combine[0] is 'mod', which is"),
        (lambda: MetaPlan(steps=0), "meta_saliency.steps is 0; expected 1 to 10000"),
        (lambda: CombinationPlan(weights=[1, True]), "combination.weights[1] is True; expected a number"),
        (
            lambda: MeasurePlan("a", arguments={"b": {1, 2}}),
            "measure.arguments is {'b': {1, 2}}; expected text, numbers",
        ),
        (lambda: plan_from([]), "the plan is []; expected a table"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            make()
        assert "\n" not in str(caught.value)
    with pytest.raises(dataclasses.FrozenInstanceError):
        DataPlan().n = 3
    assert hash(MetaPlan()) == hash(MetaPlan(lr=1e-3))
    assert repr(MeasurePlan("a")) == "MeasurePlan(measure='a', label='', arguments={})"


def test_the_schema_knows_keys_choices_and_bounds():
    schema = json.loads(json.dumps(plan_schema()))
    parts = schema["$defs"]
    assert schema["required"] == ["methods", "measures"]
    for kind in (DataPlan, ModelPlan, RunPlan, MethodPlan, MeasurePlan, CombinationPlan, MetaPlan):
        assert list(parts[kind.__name__]["properties"]) == [f.name for f in dataclasses.fields(kind)]
        assert parts[kind.__name__]["additionalProperties"] is False
    assert parts["DataPlan"]["properties"]["kind"]["enum"] == list_datasets()
    assert parts["RunPlan"]["properties"]["batch_size"]["minimum"] == 1
    assert parts["MetaPlan"]["properties"]["steps"]["maximum"] == 10_000


def test_a_plan_from_python_continues_from_its_results(tmp_path):
    """Whole numbers where numbers are expected, as Python's users write them."""
    plan = Plan(
        (MethodPlan("normgrad", combine=(CombinationPlan(weights=(1, 2)),), meta_saliency=MetaPlan(lr=0)),),
        (MeasurePlan("class_sensitivity"),),
        DataPlan(n=2),
        layers=("layer2", "layer3"),
    )
    found = run(plan, tmp_path, show_progress=False)
    assert found.plan == plan
    assert found.plan.hash() == plan.hash()
    assert run(found.plan, tmp_path, show_progress=False).complete
    assert Results(tmp_path).plan.title == ""


def test_wrong_values_from_python():
    right = {"methods": (MethodPlan("normgrad"),), "measures": (MeasurePlan("class_sensitivity"),)}
    for make, message in (
        (lambda: Plan(**right, data=DataPlan(n="3")), "data.n is '3'"),
        (lambda: Plan(**right, run=RunPlan(batch_size=None)), "batch_size is None"),
        (lambda: Plan(**right | {"methods": ("normgrad",)}), r"methods\[0\] is 'normgrad'"),
        (lambda: Plan(**right, layers="layer3"), "layers is 'layer3'; expected a list"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
