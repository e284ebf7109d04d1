"""Every door of the package takes a Hugging Face classifier and the scores beyond classes as it takes plain tensors."""

import captum.attr
import numpy as np
import pytest
import torch
from PIL import Image

import captum_extract_aggregate as cea
from captum_extract_aggregate.cli.maps import MapsRequest
from captum_extract_aggregate.cli.maps import run as explain
from captum_extract_aggregate.evaluation import DataPlan, MeasurePlan, MethodPlan, ModelPlan, Plan, run
from captum_extract_aggregate.metrics import (
    class_sensitivity,
    completeness_gap,
    parameter_randomization,
    pixel_removal,
    removal_contrast,
)
from tests.insights.given import needs_insights
from tests.scores.cases import X
from tests.scores.subjects import SUBJECTS


def maps(model, at, s):
    return cea.NormGrad(model, at[0]).attribute(X, s.target, s.extra)


def per_target(model, at, s):
    targets = [None] if s.target is None else [s.target, 0]
    return cea.GradCAM(model, at[0]).attribute_per_target(X, targets, s.extra)


def together(model, at, s):
    methods = {"ours": cea.LinearApproximation(model, list(at)), "captum's": captum.attr.InputXGradient(model)}
    found = cea.attribute_together(methods, X, s.target, s.extra)
    return [*found["ours"], found["captum's"]]


def meta(vectorized):
    def stepped(model, at, s):
        method = cea.MetaSaliency(cea.NormGrad(model, at[0]), lr=0.1, vectorized=vectorized)
        return method.attribute(X, s.target, s.extra)

    return stepped


def meta_of_captums(model, at, s):
    return cea.MetaSaliency(captum.attr.Saliency(model), lr=0.1).attribute(X, s.target, s.extra)


def combination(model, at, s):
    return cea.LayerCombination(cea.NormGrad(model, list(at))).attribute(X, s.target, s.extra)


def full_gradient(model, at, s):
    return cea.FullGrad(model).attribute(X, s.target, s.extra)


def sensitivity(model, at, s):
    return class_sensitivity(cea.NormGrad(model, at[0]), X, model, additional_forward_args=s.extra)


def randomization(model, at, s):
    method = cea.NormGrad(model, at[0])
    stages = [model.get_submodule(at[1])]
    return parameter_randomization(method, model, X, s.target, layers=stages, additional_forward_args=s.extra).values


def removal(model, at, s):
    return pixel_removal(model, X, maps(model, at, s), step=64, additional_forward_args=s.extra).e


def contrasted(model, at, s):
    return removal_contrast(model, X, maps(model, at, s), step=64, additional_forward_args=s.extra).delta_minus


def gap(model, at, s):
    return completeness_gap(model, X, maps(model, at, s), s.target, s.extra)


DOORS = {
    "a map": maps,
    "several targets": per_target,
    "several methods": together,
    "meta-saliency, vectorized": meta(True),
    "meta-saliency, one by one": meta(False),
    "meta-saliency of Captum's": meta_of_captums,
    "layers combined": combination,
    "FullGrad": full_gradient,
    "class_sensitivity": sensitivity,
    "parameter_randomization": randomization,
    "pixel_removal": removal,
    "removal_contrast": contrasted,
    "completeness_gap": gap,
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", SUBJECTS)
def test_functions_and_methods(name, door):
    s = SUBJECTS[name]()
    if door == "meta-saliency, vectorized" and (s.extra is not None or s.target is None):
        pytest.skip("only the loop takes additional arguments and single scores")
    found = DOORS[door](s.model, s.layers, s)
    expected = DOORS[door](s.plain, [f"net.{layer}" for layer in s.layers], s)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6, equal_nan=True)


BY_NAME = ["model_of_hugging_faces", "model_of_a_score"]


@pytest.fixture
def pictures(tmp_path):
    for i in range(4):
        (tmp_path / "images" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / str(i % 2) / f"{i}.png")
    return tmp_path / "images"


@pytest.mark.parametrize("name", BY_NAME)
def test_plans(name, pictures, tmp_path):
    def measured(name, prefix):
        s = SUBJECTS["hugging_face" if "faces" in name else "similarity"]()
        plan = Plan(
            data=DataPlan(kind="folder", root=str(pictures), size=24),
            model=ModelPlan(name=f"tests.scores.subjects:{name}"),
            methods=(MethodPlan("normgrad"), MethodPlan("captum:Saliency")),
            measures=(MeasurePlan("class_sensitivity"), MeasurePlan("pixel_removal", arguments={"step": 64})),
            layers=(prefix + s.layers[0],),
        )
        results = run(plan, tmp_path / name, show_progress=False)
        return [[row.value for row in results.rows(m)] for m, _ in results.measures()]

    assert measured(name, "") == measured(f"plain_{name}", "net.")


@pytest.mark.parametrize("name", BY_NAME)
def test_the_command_line(name, pictures, tmp_path):
    s = SUBJECTS["hugging_face" if "faces" in name else "similarity"]()
    told = explain(
        MapsRequest(
            *(pictures / "0" / "0.png", f"tests.scores.subjects:{name}", "", s.layers[0]),
            *("normgrad,captum:Saliency", "1"),
            **{"size": 24, "output": tmp_path / "maps.png", "html": tmp_path / "maps.html"},
        )
    )
    assert "explained: class 1, score" in told
    assert (tmp_path / "maps.png").is_file()
    assert (tmp_path / "maps.html").is_file()


@needs_insights
@pytest.mark.parametrize("name", BY_NAME)
def test_insights(name):
    from captum_extract_aggregate import insights
    from captum_extract_aggregate.insights.visualizer import Visualizer, batches_of

    s = SUBJECTS["hugging_face" if "faces" in name else "similarity"]()
    classes = [str(i) for i in range(4 if "faces" in name else 2)]
    insights.register(s.model, X[:1])
    page = Visualizer(s.model, classes, batches_of(s.model, classes, list(X)), lambda x: x.clamp(0, 1), "normgrad")
    (output, *_) = page.visualize()
    assert output[0].feature_outputs[0].modified
