"""What a leaderboard shows of a method beside its numbers: its maps of a few pictures, and how long one takes."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from captum_extract_aggregate.evaluation.methods import Method, explain_together
from captum_extract_aggregate.visualization.blending import blended

_SIDE = 72  # pixels
_QUALITY = 80
_TIMES = 7  # after one that does not count


def map_strips(methods: Sequence[Method], model: nn.Module, x: Tensor, pictures: Sequence[Image.Image]) -> list[str]:
    """Returns for each method its maps of the network's best class over the pictures, side by side, as the address of a
    JPEG; each map is scaled by its own largest magnitude.

    Args:
        methods: with one map each. x: the pictures as the model takes them, `N x C x H x W`.
        pictures: as they are shown.
    """
    with torch.no_grad():
        targets = model(x).argmax(1)[:, None]
    columns = [explain_together([method], model, x, targets, of_signs=False)[0] for method in methods]
    grounds = [np.asarray(picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)) / 255
               for picture in pictures]  # fmt: skip
    return [_strip(column.maps[0].detach(), grounds) for column in columns]


def _strip(maps: Tensor, grounds: Sequence[np.ndarray]) -> str:  # type: ignore[type-arg]
    shown = torch.nn.functional.interpolate(maps.float(), (_SIDE, _SIDE), mode="bilinear", antialias=True)
    parts = []
    for m, ground in zip(shown[:, 0].cpu().numpy(), grounds):
        end = float(np.nanmax(np.abs(m))) or 1.0
        parts.append(blended(ground, m, end, "all" if (m < 0).any() else "positive"))
    pixels = (np.concatenate(parts, axis=1).clip(0, 1) * 255).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def milliseconds(methods: Sequence[Method], model: nn.Module, x: Tensor) -> list[list[float]]:
    """Returns for each method how long its map of one input takes, several times; methods take turns.

    On the CPU it is the time that this process computes for, whatever else the machine does.
    """
    clock = time.process_time if x.device.type == "cpu" else time.perf_counter
    with torch.no_grad():
        targets = model(x).argmax(1)[:, None]
    found: list[list[float]] = [[] for _ in methods]
    for turn in range(1 + _TIMES):
        for method, times in zip(methods, found):
            start = clock()
            (column, *_) = explain_together([method], model, x, targets, of_signs=False)
            column.maps[0].sum().item()  # a device has computed it
            if turn:
                times.append(1000 * (clock() - start))
    return found
