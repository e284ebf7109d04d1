"""All methods of a network beside each other, on embedded scenes."""

import numpy as np
import pytest
import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate.evaluation import DataPlan, leaderboard
from captum_extract_aggregate.evaluation.choice.leaderboard import PIECES
from captum_extract_aggregate.metrics import class_sensitivity

GIVEN = {"methods": ["gradcam", "hirescam", "legrad"], "layers": ["layer3", "layer4"], "threads": 1}
GIVEN |= {"show_progress": False, "objects": DataPlan(seed=3), "batch_size": 2}


@pytest.fixture(scope="module")
def scenes():
    return torch.stack([image for image, _ in cea.DigitScenes(n=40)])


def test_a_board_is_measured_kept_and_gone_on_with(scenes, tmp_path):
    model = cea.load_scene_model("resnet").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    board = leaderboard(model, scenes, n=2, results=tmp_path, **GIVEN)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert set(board.measures) == {"grid_pointing_game", "relevance_mass_accuracy", "symmetric_relevance_gain",
        "removal_contrast", "class_sensitivity", "parameter_randomization", "sparseness", "milliseconds"}  # fmt: skip
    assert board.nulls == ["random map", "centre", "edges"]
    assert board.choosing == 12
    assert list(board.left_out) == ["legrad"]
    for line in board.lines:
        if line.shares:
            assert line.layer == max(reversed(line.shares), key=lambda layer: line.shares[layer] or 0)
        assert line.maps.startswith("data:image/jpeg")
    if board.lines[0].layer == "layer4":  # in front of global pooling both are one
        assert board.same == {"hirescam": "gradcam"}
    counts = {measure: len(board.values[measure]["gradcam"]) for measure in board.measures}
    assert counts["parameter_randomization"] == 2
    assert counts["class_sensitivity"] == 2
    assert np.allclose(board.values["class_sensitivity"]["centre"], 1)

    more = leaderboard(model, scenes, n=4, results=tmp_path, **GIVEN | {"pieces": ["pictures"]})
    own = more.values["class_sensitivity"]["gradcam"]
    assert own[:2].tolist() == board.values["class_sensitivity"]["gradcam"].tolist()
    assert len(own) == 4
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0)).tolist()
    measured = scenes[[i for k, i in enumerate(order) if k % 4][:4]]
    alone = class_sensitivity(cea.GradCAM(model.eval(), more.lines[0].layer), measured, model).abs()
    assert own == pytest.approx(alone.numpy(), abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 1}, "n is 1; expected an integer of at least 2"),
        ({"methods": "gradcam"}, "methods is 'gradcam'; expected a list of names"),
        ({"pieces": ["grid"]}, f"pieces holds 'grid'; expected some of {', '.join(PIECES)}"),
        ({"images": [torch.rand(3, 96, 96)] * 7}, "images holds 7 picture.s.; expected at least 8"),
        ({"images": [torch.zeros(3, 96, 96)] * 8}, "layers cannot be chosen. Grid pointing is not asked"),
    ],
)
def test_wrong_arguments(arguments, message):
    images = arguments.pop("images", [torch.rand(3, 96, 96)] * 8)
    with pytest.raises((TypeError, ValueError), match=message):
        leaderboard("scene-resnet", images, **GIVEN | {"methods": ["gradcam"]} | arguments)
