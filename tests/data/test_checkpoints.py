"""Checkpoints of training scripts are loaded under any of their usual names, and into as many classes as they have."""

import pytest
import torch
import torchvision
from torch import nn

from captum_extract_aggregate.data.checkpoints import classes_in, parameters_in
from captum_extract_aggregate.data.models_by_name import load_subject


@pytest.fixture(scope="module")
def tuned():
    torch.manual_seed(0)
    return torchvision.models.squeezenet1_1(num_classes=5).eval()


def under(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def saved_as(form, state):
    return {
        "plain": state,
        "module.": under("module.", state),
        "_orig_mod.": under("_orig_mod.", state),
        "Lightning": {
            "epoch": 3,
            "state_dict": {"loss.weight": torch.ones(5), **under("model.", state), "metric.total": torch.ones(1)},
        },
        "both": {"model": under("module.model.", state)},
    }[form]


@pytest.mark.parametrize("form", ["plain", "module.", "_orig_mod.", "Lightning", "both"])
def test_a_checkpoint_in_each_form(tuned, tmp_path, form):
    path = str(tmp_path / "last.ckpt")
    torch.save(saved_as(form, tuned.state_dict()), path)
    subject = load_subject("squeezenet1_1", path)  # whose usual weights are of 1,000 classes
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(subject.model(x), tuned(x))
    assert subject.classes == []  # nobody said what they are called


def test_a_head_behind_a_dropout(tmp_path):
    tuned = torchvision.models.resnet18(num_classes=3)
    tuned.fc = nn.Sequential(nn.Dropout(0.5), nn.Linear(512, 3))
    path = str(tmp_path / "tuned.pth")
    torch.save(tuned.state_dict(), path)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(load_subject("resnet18", path).model(x), tuned.eval()(x))


def test_a_head_of_two_layers_is_no_guess():
    model = nn.Sequential()
    model.add_module("fc", nn.Linear(8, 4))
    state = {"fc.0.weight": torch.ones(6, 8), "fc.2.weight": torch.ones(3, 6)}
    assert parameters_in(state, model, "") == state
    assert classes_in(state, model) == 0


def test_two_networks_in_one_checkpoint_are_an_error(tuned):
    state = {**under("student.", tuned.state_dict()), **under("teacher.", tuned.state_dict())}
    with pytest.raises(ValueError, match=r"2 times, below 'student\.', 'teacher\.'"):
        parameters_in(state, tuned, "last.ckpt")


def test_what_is_not_the_network_s_stays_as_it_is(tuned):
    state = {"something": torch.ones(2)}
    assert parameters_in(state, tuned, "") == state
    assert parameters_in({}, nn.ReLU(), "") == {}
