"""The choice of a method and a layer for a network, on embedded scenes."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.evaluation import DataPlan, Results, choose
from captum_extract_aggregate.metrics import class_sensitivity

GIVEN = {"methods": ["linear-approximation", "gradcam-pos"], "layers": ["layer3"], "threads": 1, "show_progress": False}


@pytest.fixture(scope="module")
def scenes():
    return torch.stack([image for image, _ in cea.DigitScenes(n=10)])


def test_the_numbers_are_the_measures_own_and_a_second_call_computes_nothing(scenes, tmp_path, capsys):
    model = cea.load_scene_model("resnet").train(False)
    model.layer4.train()  # whatever it is, it stays
    before = {name: value.clone() for name, value in model.state_dict().items()}
    choice = choose(model, scenes, results=tmp_path, **GIVEN)
    assert model.layer4.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    for candidate, method in zip(choice.candidates, (cea.LinearApproximation, cea.GradCAMPos)):
        own = class_sensitivity(method(model, "layer3"), scenes, model).abs()
        assert candidate.answers["class_sensitivity"].median == pytest.approx(float(np.median(own)), abs=1e-5)
    assert choice.images == 10
    assert set(choice.candidates[0].answers) == {
        "class_sensitivity",
        "parameter_randomization",
        "removal_contrast",
        "grid_pointing_game",
    }
    assert choice.candidates[1].answers["class_sensitivity"].verdict == "no"  # positive aggregation forgets the class
    assert choice.recommended is choice.candidates[0]
    again = choose(model, scenes, results=tmp_path, **GIVEN | {"show_progress": True})
    assert "nothing to do" in capsys.readouterr().out
    assert again == choice
    assert (tmp_path / "choice.txt").read_text() == f"{choice}\n"


def test_where_the_network_is_sure_of_too_few_classes(scenes):
    choice = choose(cea.load_scene_model("resnet"), [scenes[0]] * 3, **GIVEN | {"methods": ["gradcam"]})
    assert choice.left_out == (
        "Grid pointing is not asked: at half their size the network is sure (p > 0.5) of pictures of 1 classes, and a "
        "grid takes 4.",
    )
    assert "grid_pointing_game" not in choice.candidates[0].answers


def test_a_folder_is_looked_through(tmp_path):
    for i in range(5):
        (tmp_path / "in" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 255, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / str(i % 2) / f"{i}.PNG")
    given = GIVEN | {"methods": ["gradcam"]}
    choice = choose("scene-resnet", tmp_path / "in", n=3, results=tmp_path / "out", **given)
    assert (tmp_path / "out" / "pictures.txt").read_text().splitlines() == ["0/0.PNG", "0/2.PNG", "1/1.PNG"]
    assert choice.images == 3


class OneChild(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
        )

    def forward(self, x):
        return self.inner(x)


def test_a_network_inside_another_is_randomised_part_by_part(tmp_path):
    given = GIVEN | {"methods": ["gradcam"], "layers": ["inner.0"]}
    choose(OneChild(), DataPlan(n=2), results=tmp_path, **given)
    details = [d for measure, d in Results(tmp_path / "pictures").measures() if measure == "parameter_randomization"]
    assert details == ["000 inner.4", "001 inner.0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((7, [torch.rand(3, 8, 8)] * 2), "model is a int; expected a torch.nn.Module"),
        (("scene-resnet", "/no/such"), "images is '/no/such', and there is no such folder"),
        (("scene-resnet", []), "images is a list; expected a folder, pictures, tensors or a DataPlan"),
        (("scene-resnet", [1, 2]), "images holds more than pictures"),
        (("scene-resnet", [torch.rand(3, 96, 96)]), "images holds 1 picture; expected at least 2"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        choose(*arguments, **GIVEN)


def test_wrong_numbers(tmp_path):
    with pytest.raises(ValueError, match="n is 1; expected an integer of at least 2"):
        choose("scene-resnet", tmp_path, n=1)
    with pytest.raises(TypeError, match="methods is 'gradcam'; expected a list of names"):
        choose("scene-resnet", tmp_path, methods="gradcam")
    with pytest.raises(ValueError, match="which holds no pictures"):
        choose("scene-resnet", tmp_path)
    with pytest.raises(ValueError, match="weights is 'x', but model is a network"):
        choose(nn.Linear(2, 2), tmp_path, weights="x")
