"""Maps over pictures in a strip, and the time of a map."""

import base64
import io

import numpy as np
import torch
from PIL import Image

import captum_extract_aggregate as cea
from captum_extract_aggregate.evaluation import MethodPlan
from captum_extract_aggregate.evaluation.choice.map_strips import map_strips, milliseconds
from captum_extract_aggregate.evaluation.methods import make_ready

MODEL = cea.load_scene_model("resnet").eval()
X = torch.stack([image for image, _ in cea.DigitScenes(n=2)])
METHODS = [make_ready(MethodPlan(m), ("layer3",), MODEL) for m in ("linear-approximation", "gradcam")]


def test_a_strip_has_each_picture_under_its_map():
    pictures = [Image.new("RGB", (20, 30), "white"), Image.new("RGB", (9, 9), "black")]
    strips = map_strips(METHODS, MODEL, X, pictures)
    assert len(set(strips)) == 2
    kind, text = strips[0].split(",")
    assert kind == "data:image/jpeg;base64"
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
    assert pixels.shape == (72, 144, 3)
    assert pixels[:, :72].mean() > pixels[:, 72:].mean() + 60


def test_times_are_told_of_each_method():
    found = milliseconds(METHODS, MODEL, X[:1])
    assert [len(times) for times in found] == [7, 7]
    assert all(t > 0 for times in found for t in times)
