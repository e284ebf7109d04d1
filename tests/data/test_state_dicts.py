"""Weights that do not fit say what differs and what cures it; a pickled model how it can be used."""

import pytest
import torch
from torch import nn

from captum_extract_aggregate.data.models_by_name import load_subject
from captum_extract_aggregate.data.state_dicts import difference


def net(classes=10, head=None, width=8):
    return nn.ModuleDict({"stem": nn.Conv2d(3, width, 3), "fc": head or nn.Linear(width, classes)})


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (net(classes=3), "they are for 3 classes (fc.weight), and the model has 10; expected --class-names"),
        (net(width=4), "'stem.weight' is (4, 3, 3, 3), and the model's (8, 3, 3, 3) (3 of 4 differ); expected --model"),
        (
            net(head=nn.Sequential(nn.Dropout(), nn.Linear(8, 10))),
            "the head 'fc' differs: they have fc.1.weight, fc.1.bias, and the model fc.weight, fc.bias; expected a "
            "model with that head: --model FILE.py:FUNCTION",
        ),
        (
            nn.ModuleDict({"a": nn.Linear(2, 2)}),
            "4 of the model's 4 names are not there (stem.weight, stem.bias,",
        ),
        (
            nn.ModuleDict({**net(), "extra": nn.Linear(2, 2)}),
            "they also have extra.weight, extra.bias, which",
        ),
    ],
)
def test_what_differs_and_its_cure(other, told):
    assert difference(other.state_dict(), net()).startswith(told)
    assert "\n" not in difference(other.state_dict(), net())


def test_on_a_named_model(tmp_path):
    from torchvision import models

    model = models.squeezenet1_1(num_classes=2)
    torch.save(model.state_dict(), tmp_path / "two.pth")
    with pytest.raises(ValueError, match=r"do not fit SqueezeNet: they are for 2 classes \(classifier\.1\.weight\)"):
        load_subject("squeezenet1_1", str(tmp_path / "two.pth"), 3)
    torch.save(model, tmp_path / "whole.pth")
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), tmp_path / "script.pt")
    for name, what in (
        ("whole.pth", "a pickled torchvision.models.squeezenet.SqueezeNet"),
        ("script.pt", "Script"),
    ):
        with pytest.raises(ValueError, match=rf"{what}.*FILE\.py:FUNCTION") as told:
            load_subject("squeezenet1_1", str(tmp_path / name))
        assert "\n" not in str(told.value)
