"""A network and its input."""

import pytest

import captum_extract_aggregate as cea
from captum_extract_aggregate import insights
from tests.insights.given import HAS_INSIGHTS


@pytest.fixture(scope="session")
def model():
    return cea.load_scene_model("resnet")


@pytest.fixture(scope="session")
def x():
    return cea.DigitScenes(1)[0][0][None]


@pytest.fixture(scope="session", autouse=True)
def registered():
    """The methods stand in Captum's list whichever test comes first."""
    if HAS_INSIGHTS:
        insights.register()
