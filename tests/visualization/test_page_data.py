"""What pages take: maps to eight bits, pictures and colours."""

import base64
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from captum_extract_aggregate.visualization.blending import colours_of
from captum_extract_aggregate.visualization.page_data import colour_data, map_data, picture_data


@pytest.mark.parametrize("map_", [torch.randn(3, 4, 5), torch.rand(1, 2, 2), torch.zeros(1, 2, 3)])
def test_a_map_to_eight_bits(map_):
    data = map_data(map_)
    values = np.frombuffer(base64.b64decode(data["values"]), np.int8).reshape(data["height"], data["width"])
    found = torch.tensor(values / 127 * data["scale"])
    torch.testing.assert_close(found, map_.sum(0).double(), rtol=0, atol=data["scale"] / 250)
    assert data["undefined"] is False


def test_a_map_that_is_undefined_somewhere_says_so():
    data = map_data(torch.tensor([[[math.nan, 1.0, math.inf]]]))
    assert data["undefined"] is True
    assert math.isfinite(data["scale"])


def test_a_picture_and_the_colours():
    picture = torch.rand(3, 4, 6)
    kind, _, text = picture_data(picture).partition(",")
    assert kind == "data:image/png;base64"
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
    assert np.abs(found / 255 - picture.permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6
    tables = {name: np.frombuffer(base64.b64decode(t), np.uint8).reshape(256, 3) for name, t in colour_data().items()}
    assert (tables["signed"][255] == colours_of("all")(255, bytes=True)[:3]).all()
    assert (tables["positive"][0] == colours_of("positive")(0, bytes=True)[:3]).all()
