"""Networks for tests that torchvision does not have."""

import torch
import torch.nn.functional as F
import torchvision
from torch import nn


class _CifarBlock(nn.Module):
    """Two 3 x 3 convolutions; the shortcut drops every second position and pads channels with zeros (option A)."""

    def __init__(self, width_in, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.pad = stride, (width - width_in) // 2

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pad:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(out + x)


class CifarResNet20(nn.Module):
    """The CIFAR-10 ResNet-20, with functional ReLUs and additions; `conv1`, `bn1`, `layer1` ... `layer3`, `linear`."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = [16, 16, 32, 64]
        for i in range(1, 4):
            first = _CifarBlock(widths[i - 1], widths[i], 1 if i == 1 else 2)
            setattr(self, f"layer{i}", nn.Sequential(first, *(_CifarBlock(widths[i], widths[i], 1) for _ in range(2))))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.avg_pool2d(x, x.shape[3]).flatten(1))


def vgg11(batch_norm=False):
    """Torchvision's with a smaller classifier, which takes most of the time otherwise."""
    net = (torchvision.models.vgg11_bn if batch_norm else torchvision.models.vgg11)(init_weights=False)
    net.avgpool = nn.AdaptiveAvgPool2d(2)
    net.classifier = nn.Sequential(nn.Linear(2048, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 10))
    return net


class Attending(nn.Module):
    """A transformer layer, whose parts are hooked: the process's fused kernels have to be switched off."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.encoder(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


def lively(net):
    """Random biases and running statistics, so that every kind of bias matters."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.2)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            bias.data.copy_(torch.randn(bias.shape, generator=generator) * 0.2)
    return net.eval()


def shorten(net, left=2):
    """Leaves the first few of each row of equal blocks: the others hold no operation that these do not."""
    for module in net.modules():
        blocks = list(module) if isinstance(module, nn.Sequential) else []
        if len({type(block) for block in blocks}) == 1 and not isinstance(blocks[0], nn.Sequential):
            del module[left:]
    return net


class Encoder(nn.Module):
    """PyTorch's own encoder of sequences `N x 5 x 4`, which runs its layers as one kernel where it can."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.embed, self.encoder = nn.Linear(4, 8), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x)).mean(1))


class Strided(nn.Module):
    """Two convolutions over an input whose channels are moved to dimension 1 (None: that are not there yet)."""

    def __init__(self, dims, channels, axis):
        super().__init__()
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.axis = axis
        self.a, self.b = conv(channels, 16, 3, 2, 1), conv(16, 24, 3, 2, 1)
        self.fc = nn.Linear(24, 3)

    def forward(self, x):
        x = x.unsqueeze(1) if self.axis is None else x.movedim(self.axis, 1)
        return self.fc(self.b(self.a(x).relu()).relu().flatten(2).mean(2))


def runs_of(net):
    """A list that grows by an entry whenever the network runs."""
    runs = []
    net.register_forward_hook(lambda module, args, output: runs.append(module))
    return runs


class Tables(nn.Module):
    """Attention over a grid of 4 x 4 cells, with layers that make tables of positions of no input: one of places, and
    one of 7 x 7 differences of places, which looks like a single example with channels last."""

    def __init__(self):
        super().__init__()
        self.patches, self.places, self.norm = nn.Conv2d(3, 6, 4, 4), nn.Conv2d(2, 6, 1), nn.LayerNorm(6)
        self.qkv, self.proj, self.head = nn.Linear(6, 18), nn.Linear(6, 6), nn.Linear(6, 3)
        self.table = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
        y, x = (t.flatten() for t in torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"))
        self.register_buffer("index", (y[:, None] - y + 3) * 7 + x[:, None] - x + 3)

    def grid(self, n):
        side = torch.linspace(-1, 1, n, dtype=self.head.weight.dtype)
        return torch.stack(torch.meshgrid(side, side, indexing="ij"))[None]

    def forward(self, x):
        x = self.patches(x)
        x = x + self.places(self.grid(4)).repeat(len(x), 1, 1, 1)
        x = self.norm(x.permute(0, 2, 3, 1))
        q, k, v = self.qkv(x).flatten(1, 2).chunk(3, -1)
        table = self.table(self.grid(7).permute(0, 2, 3, 1)).flatten()[self.index]
        x = x + self.proj((q @ k.mT + table.sigmoid()).softmax(-1) @ v).unflatten(1, (4, 4))
        return self.head(x.relu().mean((1, 2)))
