"""Fixtures, and where the real data lies."""

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import nn
from torch.overrides import TorchFunctionMode

settings.register_profile("default", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("default")
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else max(1, min(2, os.cpu_count() or 1)))

REAL_DATA = Path(os.environ.get("CEA_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
needs_real_data = pytest.mark.skipif(
    not REAL_DATA.is_dir(), reason=f"no real networks and images at {REAL_DATA} (set CEA_DATA)"
)


def pytest_collection_modifyitems(items):
    """The longest tests come first, so that all processes end at about the same time."""
    items.sort(key=lambda item: "test_they_stand_on_fresh_scenes" not in item.name)


class SmallNet(nn.Module):
    """Convolution, in-place ReLU, a residual sum, BatchNorm and a linear head; smooth enough for float64 checks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.bn = nn.BatchNorm2d(6)
        self.relu2 = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x, scale=None):
        y = self.relu1(self.conv1(x))
        z = self.bn(self.conv2(y))
        z += y
        z = self.conv3(self.pool(self.relu2(z)))
        out = self.fc(torch.relu(z).mean((2, 3)))
        return out if scale is None else out * scale


@pytest.fixture
def small_net():
    torch.manual_seed(0)
    net = SmallNet()
    net.bn.running_mean.normal_(std=0.1)
    net.bn.running_var.uniform_(0.5, 2)
    return net.eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def no_gpu(monkeypatch):
    """`DataParallel` moves a model to the GPUs that it finds; it finds none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def relative_error(got, expected):
    """Largest deviation relative to the largest magnitude expected."""
    return ((got - expected).abs().max() / expected.abs().max().clamp(min=1e-300)).item()


@pytest.fixture
def elsewhere(monkeypatch):
    """A function after whose call all tensors lie elsewhere; it gives the list of who asked."""

    def go():
        asked = []

        def on_cpu(t):
            asked.append(sys._getframe(1).f_globals["__name__"].removeprefix("captum_extract_aggregate."))
            return False

        for name, module in list(sys.modules.items()):
            if name.startswith("captum_extract_aggregate") and hasattr(module, "on_cpu"):
                monkeypatch.setattr(module, "on_cpu", on_cpu)
        return asked

    return go


class _Sees(TorchFunctionMode):
    seen = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen |= getattr(func, "__name__", "") == "__getitem__"
        return func(*args, **(kwargs or {}))


def _indexing_is_seen():
    with _Sees() as mode:
        torch.zeros(2)[0]
    return mode.seen


# What a number picks out of a tensor has then no known dimensions, in torchvision's Swin the queries, keys and values.
needs_indexing = pytest.mark.skipif(not _indexing_is_seen(), reason="this PyTorch shows x[0] to no function mode")
