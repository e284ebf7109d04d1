"""Networks and pictures as users give them."""

import torch

from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate.data.models_by_name import MODELS
from captum_extract_aggregate.evaluation import DataPlan, ModelPlan
from captum_extract_aggregate.evaluation.choice.given import (
    data_plan,
    model_plan,
    register_data,
    results_folder,
    spread,
)
from captum_extract_aggregate.evaluation.data_kinds import DATA_KINDS


def test_what_is_named_for_a_call_is_forgotten_after_it(tmp_path):
    model = torch.nn.Linear(2, 2)
    with Undo() as undo, undo:
        named = model_plan(model, "", undo)
        data = data_plan([torch.rand(3, 8, 8)] * 5, 2, tmp_path, undo)
        register_data("mine", [1], undo)
        folder = results_folder(None, undo)
        assert folder.is_dir()
        assert "mine" in DATA_KINDS
        made = MODELS[named.name].build()
        assert made is not model
        assert torch.equal(made.weight, model.weight)
        assert len(DATA_KINDS[data.kind].make()) == 2
    assert not folder.exists()
    assert named.name not in MODELS
    assert "mine" not in DATA_KINDS
    assert data.kind not in DATA_KINDS


def test_what_a_plan_knows_stays_as_it_is(tmp_path):
    with Undo() as undo, undo:
        assert model_plan("resnet18", "w.pth", undo) == ModelPlan("resnet18", "w.pth")
        assert data_plan(DataPlan(n=3), 2, tmp_path, undo) == DataPlan(n=3)
        assert results_folder(str(tmp_path), undo) == tmp_path


def test_things_are_spread():
    assert spread([1, 2, 3, 4, 5], 2) == [1, 3]
    assert spread((1, 2), 3) == [1, 2]
