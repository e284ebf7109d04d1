"""A small setting that the experiments share, so that what one evaluated another finds."""

import pytest

from captum_extract_aggregate.evaluation import DataPlan, ModelPlan
from captum_extract_aggregate.reproduction import Setting


@pytest.fixture(scope="session")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproduction")
    sizes = {"maps": 5, "stages": 3, "removal": 4}
    data = DataPlan("scenes", n=16, seed=5)
    return Setting(
        "scene-resnet",
        ModelPlan("scene-resnet"),
        data,
        folder,
        tolerance=4,
        step=1024,
        sizes=sizes,
        show_progress=False,
    )
