"""What is checked of a plan once its parts are there."""

import warnings
import weakref

import pytest
import torch

from captum_extract_aggregate.evaluation import MeasurePlan, plan_from
from captum_extract_aggregate.evaluation.checks import warn_of_forwards, warn_of_memory
from captum_extract_aggregate.evaluation.measure_spec import find_measure
from captum_extract_aggregate.evaluation.prepare import prepare
from captum_extract_aggregate.evaluation.prepared import Measurement, Prepared
from tests.evaluation.plans import HERE, content, picture_folder, voc_tree
from tests.evaluation.wrong_plans import check_refused, measures, methods, tiny, tiny_data

WRONG = {
    "a method of Captum's that refuses the model": (
        methods(method="captum:DeepLift") | {"model": {"name": f"{HERE}:module_of_one_relu"}} | tiny_data(),
        "method 'captum:DeepLift' cannot explain this model",
    ),
    "a model of pictures": (tiny(model={"name": f"{HERE}:net_of_pictures"}), r"gives \(1, 3, .*\); expected scores"),
    "an unknown stage": (measures("parameter_randomization", layers=["layer9"]), "'layer9'"),
    "more shuffles than other images": (measures("removal_contrast", n_shuffles=3, step=4096), "n_shuffles is 3"),
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
def test_what_does_not_go_together(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_refused(*WRONG[case], tmp_path)


def test_measures_that_need_what_the_data_do_not_give(tmp_path):
    folder, voc = str(picture_folder(tmp_path / "folder")), str(voc_tree(tmp_path))
    pointing = [{"measure": "pointing_game"}]
    for plain, message in (
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
        check_refused(plain, message, tmp_path)


def test_a_batch_that_will_not_fit_is_told_before_any_work():
    gigabyte = 1 << 30
    with pytest.warns(
        UserWarning, match=r"method 'ig' took 0\.5 GB for one image, so 8 at a time may take 4 GB"
    ) as said:
        warn_of_memory({"gradcam": gigabyte // 100, "ig": gigabyte // 2}, 8, 3 * gigabyte)
    assert "3 GB are free; expected run.batch_size up to 5," in str(said[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_memory({"ig": gigabyte // 2}, 8, 5 * gigabyte)
        warn_of_memory({"ig": gigabyte // 2}, 8, None)
        warn_of_memory({}, 8, 1)


def measurement(name, **arguments):
    plan = MeasurePlan(name, arguments=arguments)
    return Measurement(plan, find_measure(plan))


@pytest.mark.parametrize("name", ["pixel_removal", "removal_contrast"])
def test_a_measure_that_takes_pixels_one_by_one_is_told_before_any_work(name):
    with pytest.warns(UserWarning, match=rf"'{name}' takes 1 of 50,176 pixels at a time, up to 50,176 forwards for"):
        warn_of_forwards([measurement(name)], (224, 224))
    with pytest.warns(UserWarning, match=r"arguments = {step = 1024} takes 49$"):
        warn_of_forwards([measurement(name)], (224, 224))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_forwards([measurement(name, step=1024), measurement(name, step=1)], (224, 224))  # as is asked for
        warn_of_forwards([measurement(name)], (28, 28))
        warn_of_forwards([measurement("perturbation_curve"), measurement("class_sensitivity")], (224, 224))


def test_a_plan_warns_of_its_measures():
    plan = plan_from(content(measures=[{"measure": "pixel_removal"}]))
    with pytest.warns(UserWarning, match="'pixel_removal' takes 1 of 9,216 pixels"):
        prepare(plan, torch.device("cpu"))


@pytest.mark.parametrize("each_fits", [True, False])
def test_methods_that_cannot_explain_together(each_fits, monkeypatch):
    """What the try has made is given up before each is tried by itself, which says whose fault it is."""
    held = []

    def columns(prepared, x, targets):
        if len(prepared.methods) == 1 and each_fits:
            assert held[0]() is None
            return []
        large = torch.empty(3)
        held.append(weakref.ref(large))
        raise MemoryError("out of memory")

    monkeypatch.setattr(Prepared, "columns", columns)
    what = "the methods cannot explain this model together" if each_fits else "method 'normgrad' cannot explain"
    plan = plan_from(content(methods=[{"method": "normgrad"}, {"method": "gradcam"}]))
    with pytest.raises(ValueError, match=rf"{what}.*out of memory.*; one image is too much"):
        prepare(plan, torch.device("cpu"))
