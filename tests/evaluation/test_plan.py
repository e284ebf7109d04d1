"""Plans: wrong ones are refused with one clear line before there is a folder; right ones come back as they were."""

import dataclasses
import json
import re

import pytest
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
from tests.evaluation.plans import content
from tests.evaluation.wrong_plans import check_refused, combine, data, methods, model

WRONG = {
    "a key of the plan": (content(measurements=[]), "'measurements', which is unknown; did you mean 'measures'"),
    "a key of data": (data(rooot="."), "a key of data is 'rooot', which is unknown; did you mean 'root'"),
    "a key of the model": (model(nam="vgg16"), "a key of model is 'nam', .* did you mean 'name'"),
    "a key of run": (content(run={"batchsize": 2}), "a key of run is 'batchsize', .* did you mean 'batch_size'"),
    "a key of a method": (methods(layer=["layer3"]), r"a key of methods\[0\] is 'layer', .* did you mean 'layers'"),
    "a key of a measure": (content(measures=[{"measur": "x"}]), r"a key of measures\[0\] is 'measur', .*'measure'"),
    "a key of a combination": (combine(weight="linear"), r"methods\[0\].combine\[0\] is 'weight', .* 'weights'"),
    "a key of meta-saliency": (methods(meta_saliency={"rate": 1}), r"methods\[0\].meta_saliency is 'rate'"),
    "a key that is like nothing": (content(zzz=1), "'zzz', which is unknown; expected one of 'methods', 'measures'"),
    "no methods": (content(methods=None), "lacks 'methods'"),
    "empty methods": (content(methods=[]), "methods is empty"),
    "empty measures": (content(measures=[]), "measures is empty"),
    "a method without a name": (content(methods=[{"label": "x"}]), r"methods\[0\] lacks 'method'"),
    "an unknown kind": (data(kind="cocoa"), "data.kind is 'cocoa', .* did you mean 'coco'"),
    "an unknown resize": (data(resize="squared"), "data.resize is 'squared', .* did you mean 'square'"),
    "far too many scenes": (data(n=10**15), "data.n is 1000000000000000, .*expected scenes up to"),
    "steps without end": (methods(meta_saliency={"steps": 10**6}), "meta_saliency.steps is 1000000; expected 1 to"),
    "two means": (data(mean=[0.5, 0.5]), "data.mean is .* expected one number or three"),
    "a deviation of 0": (data(std=[0]), "data.std is .* above 0"),
    "unknown on_error": (content(run={"on_error": "skipp"}), "run.on_error is 'skipp', .* did you mean 'skip'"),
    "unknown channels": (methods(channels="max"), r"methods\[0\].channels is 'max', .* 'max_abs'"),
    "unknown interpolation": (methods(interpolation="linear"), "interpolation is 'linear', .* 'bilinear'"),
    "an unknown mode": (combine(mode="products"), r"combine\[0\].mode is 'products', .* 'product'"),
    "the same label twice": (content(methods=[{"method": "gradcam"}] * 2), "names 'gradcam' twice"),
    "the same measure twice": (content(measures=[{"measure": "class_sensitivity"}] * 2), "'class_sensitivity' twice"),
    "a label that is another's name": (
        content(methods=[{"method": "gradcam"}, {"method": "normgrad", "label": "gradcam"}]),
        "methods names 'gradcam' twice",
    ),
    "VOC without a root": (data(kind="voc"), "data.root is empty; expected it for data of the kind 'voc'"),
    "COCO without annotations": (data(kind="coco", root="."), "data.file is empty"),
    "a list without a file": (data(kind="list"), "data.file is empty"),
    "custom without a data set": (data(kind="custom"), "data.dataset is empty"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_plans(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_refused(*WRONG[case], tmp_path)


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
