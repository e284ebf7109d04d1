"""Which methods a network admits, and at which layers."""

import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate.evaluation import MethodPlan
from captum_extract_aggregate.evaluation.choice.every_method import admitted, method_plans


def test_all_of_them_are_named_once():
    labels = [plan.label or plan.method for plan in method_plans()]
    assert len(set(labels)) == len(labels)
    assert {"normgrad", "fullgrad", "finercam", "lrp-gamma", "captum:Saliency", "normgrad, competing"} <= set(labels)


def test_layers_that_work_are_kept_and_refusals_told():
    model = cea.load_scene_model("resnet")
    x = cea.DigitScenes(n=1)[0][0][None]
    methods = ["gradcam", "hirescam", "captum:LayerGradCam", "captum:GuidedGradCam", "captum:Saliency", "legrad"]
    found = admitted([MethodPlan(m) for m in (*methods, "fullgrad")], model, x, ["input", "layer3", "layer4"])
    assert {label: found.places(label) for label in found.plans} == {
        "gradcam": ["input", "layer3", "layer4"],
        "hirescam": ["input", "layer3", "layer4"],
        "captum:LayerGradCam": ["layer3", "layer4"],  # Captum's takes no input
        "captum:GuidedGradCam": ["input"],  # its map; the layer is the last
        "captum:Saliency": ["input"],
        "fullgrad": ["all layers"],
    }
    assert found.plans["captum:GuidedGradCam"].layers == ("layer4",)
    assert list(found.left_out) == ["legrad"]
    assert "attention" in found.left_out["legrad"]
    assert found.are_alike(("gradcam", "layer4"), ("hirescam", "layer4"))  # in front of global pooling
    assert not found.are_alike(("gradcam", "layer3"), ("hirescam", "layer3"))
    assert not found.are_alike(("gradcam", "layer3"), ("gradcam", "layer4"))  # of another size


def test_layers_without_positions_are_left_out():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 3))
    x = torch.rand(1, 3, 8, 8)
    assert admitted([MethodPlan("gradcam")], model, x, ["0", "2"]).places("gradcam") == ["0"]
    found = admitted([MethodPlan("gradcam")], model, x, ["2"])
    assert not found.plans
    assert "has no positions" in found.left_out["gradcam"]
