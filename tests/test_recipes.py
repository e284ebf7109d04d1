"""The steps that "From a map to a picture" gives for other libraries' pictures are those libraries'."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import captum_extract_aggregate as cea

PAGE = (Path(__file__).parent.parent / "docs/howto/draw_maps.md").read_text(encoding="utf-8")
CELLS = re.findall(r"```\{code-cell\}\n(.*?)```", PAGE, re.DOTALL)
SIZE, TARGET = (96, 96), 3


@pytest.fixture(scope="module")
def steps():
    names = {}
    exec(CELLS[0], names)  # the imports
    exec(next(cell for cell in CELLS if "def as_in_gradcam" in cell).split("size = ")[0], names)
    return names


@pytest.fixture
def model():
    return cea.load_scene_model("resnet")


@pytest.fixture
def x():
    return cea.DigitScenes(n=1, seed=5)[0][0][None]


def test_as_in_gradcam(steps, model, x):
    theirs = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    with theirs.GradCAM(model, [model.layer3]) as gradcam:
        expected = gradcam(x, [targets.ClassifierOutputTarget(TARGET)])
    found = steps["as_in_gradcam"](cea.GradCAM(model, "layer3").attribute(x, TARGET), SIZE)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-5)


def test_as_in_torchcam(steps, model, x):
    theirs = pytest.importorskip("torchcam.methods")
    with theirs.GradCAM(model, "layer3") as extractor:
        cam = extractor(TARGET, model(x))[0][0]
    coloured = np.asarray(Image.fromarray(cam.numpy()).resize(SIZE, Image.Resampling.BICUBIC)) ** 2  # `overlay_mask`
    found = steps["as_in_torchcam"](cea.GradCAM(model, "layer3").attribute(x, TARGET), SIZE)
    np.testing.assert_allclose(found[0, 0].numpy(), coloured, atol=1e-5)


def test_as_in_captum(steps):
    map_ = torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    found = steps["as_in_captum"](map_, SIZE)
    ends = found.abs() == 1
    beyond = map_.abs()[ends].sum() - map_.abs()[ends].min() * ends.sum()  # what is cut off, of the whole sum
    assert 0 < beyond < 0.02 * map_.abs().sum()
    assert map_.abs()[ends].sum() > 0.02 * map_.abs().sum()
    torch.testing.assert_close(found[~ends], map_[~ends] / map_.abs()[ends].min())
