"""A network and its input."""

import pytest

import captum_extract_aggregate as cea


@pytest.fixture(scope="session")
def model():
    return cea.load_scene_model("resnet")


@pytest.fixture(scope="session")
def x():
    return cea.DigitScenes(1)[0][0][None]
