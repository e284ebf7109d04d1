"""Maps by public calls as evaluations make them, and what evaluations found, as tensors."""

import torch
from torch import nn


def values(results, measure, detail=None, method=None, layer=None):
    """A number per image; or per image and class, for those that have several."""
    rows = results.rows(measure, detail, method, layer)
    assert rows
    return torch.tensor([row.value for row in rows], dtype=torch.float64)


def close(got, expected, tolerance=2e-4):
    expected = torch.as_tensor(expected).double()
    return torch.allclose(got, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


class Summed:
    """An explainer whose maps are brought to one channel and the image's size."""

    def __init__(self, method, channels="sum", mode="bilinear"):
        self.method, self.channels, self.mode = method, channels, mode

    def __call__(self, inputs, target):
        m = self.method.attribute(inputs, target=target).detach()
        m = m.abs() if self.channels != "sum" else m
        m = m.amax(1, keepdim=True) if self.channels == "max_abs" else m.sum(1, keepdim=True)
        if m.shape[2:] == inputs.shape[2:]:
            return m
        options = {"align_corners": False} if self.mode == "bilinear" else {}
        return nn.functional.interpolate(m, inputs.shape[2:], mode=self.mode, **options)
