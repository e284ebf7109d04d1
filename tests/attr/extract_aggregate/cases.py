"""What the tests of extracts and aggregates share."""

import torch

VIRTUAL = ["bias", "scaling", "conv1x1", "conv3x3", "conv5x5", "depthwise1x1", "depthwise3x3", "depthwise5x5"]


def draw_tensor(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
