"""Maps, pictures and colours as pages take them: in bytes, written as text."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from captum_extract_aggregate.visualization.blending import colours_of
from captum_extract_aggregate.visualization.figures import scale_of


def map_data(map_: Tensor) -> dict[str, Any]:
    """Returns a map `1 x h x w` in eight bits a position, as shares of the largest magnitude.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.visualization.page_data import map_data
        >>> found = map_data(torch.tensor([[[0.0, -2.0]]]))
        >>> found["height"], found["width"], found["scale"], found["undefined"]
        (1, 2, 2.0, False)
    """
    values = map_.detach().double().cpu().sum(0).numpy()
    scale = scale_of([map_])
    shares = np.nan_to_num(values / scale, nan=0, posinf=0, neginf=0) if scale > 0 else np.zeros_like(values)
    return {
        "height": values.shape[0],
        "width": values.shape[1],
        "scale": scale if math.isfinite(scale) else 0,
        "undefined": not np.isfinite(values).all(),
        "values": _text(np.rint(127 * shares).astype(np.int8).tobytes()),
    }


def picture_data(picture: Tensor) -> str:
    """Returns a picture `3 x H x W` in [0, 1] as the address of an image."""
    pixels = picture.detach().float().cpu().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + _text(file.getvalue())


def colour_data() -> dict[str, str]:
    """Returns the colours of maps with both signs and of others: 256 times red, green and blue."""
    return {name: _table(sign) for name, sign in (("signed", "all"), ("positive", "positive"))}


def _table(sign: str) -> str:
    return _text(colours_of(sign)(np.arange(256), bytes=True)[:, :3].tobytes())


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
