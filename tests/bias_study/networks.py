"""Small networks with every kind of bias, and images for them."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.conftest import SmallNet
from tests.networks import lively


def network(dtype=torch.float64):
    """Decides for several classes, with its biases and without them."""
    torch.manual_seed(3)
    model = lively(SmallNet())
    with torch.no_grad():
        model.fc.weight.mul_(4)
        for convolution in (model.conv1, model.conv2, model.conv3):
            convolution.weight.mul_(2)
    return model.to(dtype)


def images(n=12, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    colours = torch.randn(n, 3, 1, 1, generator=generator, dtype=torch.float64)
    return (2 * colours + torch.randn(n, 3, 12, 12, generator=generator, dtype=torch.float64)).to(dtype)


def loader(n=12, batch=4, shuffle=False, dtype=torch.float64, labels=True, generator=None):
    x = images(n, dtype)
    tensors = [x, torch.arange(n) % 5] if labels else [x]
    return DataLoader(TensorDataset(*tensors), batch, shuffle=shuffle, generator=generator)


class Transformer(nn.Module):
    """A class token over patches, with attention's biases and layer norms."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.block(self.embed(x).flatten(2).mT).mean(1))


def seven():
    """Seven classes, so that the top five are not all."""
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 7)).double().eval()
