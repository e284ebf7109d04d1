"""A tiny network for photographs, a photograph, and what the page is answered from."""

import importlib.util
import io

import numpy as np
import pytest
import torch
from PIL import Image

from captum_extract_aggregate.data.models_by_name import NamedModel
from captum_extract_aggregate.explanation.subject import find_subject
from captum_extract_aggregate.live.gallery import Gallery, photo_of, scenes
from captum_extract_aggregate.live.networks import Networks

HAS_SERVER = all(importlib.util.find_spec(name) for name in ("starlette", "uvicorn"))
needs_server = pytest.mark.skipif(not HAS_SERVER, reason='needs pip install "captum-extract-aggregate[live]"')

EVIL = "</script><img src=x onerror=throw(1)>"


def tiny():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        *(torch.nn.Conv2d(3, 6, 3, 2), torch.nn.ReLU(), torch.nn.Conv2d(6, 8, 3, 2), torch.nn.ReLU()),
        *(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 3)),
    ).eval()


def subject():
    return NamedModel(tiny(), 32, 32, (0.5,), (0.5,), ["cat", EVIL, "dog"])


def picture(width=60, height=40, seed=0):
    values = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def content(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def networks():
    of_scenes = lambda: find_subject("scene-resnet", "")  # noqa: E731
    return Networks({EVIL: (subject, False), "scene-resnet": (of_scenes, True)})


def gallery():
    return Gallery([photo_of(picture(), EVIL), *scenes(2)])
