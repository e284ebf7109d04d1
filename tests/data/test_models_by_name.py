"""Models that users register by name."""

import pytest
import torch
from torch import nn

from captum_extract_aggregate.data.models_by_name import load_subject, takes_scenes
from captum_extract_aggregate.registry import list_models, register_model, unregister_model


def tiny():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


@pytest.fixture
def registered():
    register_model("tiny", size=32, mean=[0.5], std=[0.25], classes=["cat", "dog"])(tiny)
    yield "tiny"
    if "tiny" in list_models():
        unregister_model("tiny")


def test_a_registered_model_says_what_it_takes(registered):
    subject = load_subject(registered)
    assert (subject.size, subject.resize, subject.mean, subject.std) == (32, 37, (0.5,), (0.25,))
    assert subject.classes == ["cat", "dog"]
    assert not subject.model.training
    assert load_subject(registered).model is not subject.model
    assert not takes_scenes(registered)
    assert takes_scenes("scene-vit")


def test_weights_are_loaded_into_it(registered, tmp_path):
    state = {name: torch.full_like(value, 0.5) for name, value in tiny().state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    model = load_subject(registered, str(tmp_path / "weights.pth")).model
    assert all(bool((p == 0.5).all()) for p in model.parameters())
    with pytest.raises(ValueError, match="brings its own"):
        load_subject("scene-vgg", str(tmp_path / "weights.pth"))


def test_mistakes(registered):
    with pytest.raises(ValueError, match=r"'tiny', which is taken; .*unregister_model\('tiny'\)"):
        register_model("tiny")
    register_model("tiny", overwrite=True)(lambda: 3)
    with pytest.raises(ValueError, match="'tiny', which returned a int"):
        load_subject("tiny")
    register_model("tiny", overwrite=True)(lambda: 1 / 0)
    with pytest.raises(ValueError, match="'tiny', whose function failed: ZeroDivisionError"):
        load_subject("tiny")
    unregister_model("tiny")
    with pytest.raises(ValueError, match="'tiny', which is unknown"):
        load_subject("tiny")
