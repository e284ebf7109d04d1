"""Slow, literal reference of the bias study: networks without biases, scaled biases, decaying biases, and scores."""

import copy
import math

import numpy
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

BIASED = (_ConvNd, nn.Linear, nn.GroupNorm, nn.LayerNorm)


def by_channel(values: Tensor, x: Tensor) -> Tensor:
    """One value per channel, shaped to multiply x along dimension 1."""
    return values.reshape([1, -1] + [1] * (x.dim() - 2))


class ScaleOnly(nn.Module):
    """BatchNorm without its beta and its mean: gamma * x / sqrt(var + eps)."""

    def __init__(self, norm: _BatchNorm) -> None:
        """Keep gamma, the variance and eps of a BatchNorm."""
        super().__init__()
        self.eps = norm.eps
        self.register_buffer("var", norm.running_var.detach().clone())
        gamma = torch.ones_like(self.var) if norm.weight is None else norm.weight.detach().clone()
        self.gamma = nn.Parameter(gamma)

    def forward(self, x: Tensor) -> Tensor:
        """Scale every channel."""
        return by_channel(self.gamma, x) * x / torch.sqrt(by_channel(self.var, x) + self.eps)


class ScaledNorm(nn.Module):
    """BatchNorm with scaled beta and mean: gamma * (x - s * mean) / sqrt(var + eps) + s * beta."""

    def __init__(self, norm: _BatchNorm, s: float) -> None:
        """Keep everything of a BatchNorm, and the scale s."""
        super().__init__()
        self.eps, self.s = norm.eps, s
        self.register_buffer("mean", norm.running_mean.detach().clone())
        self.register_buffer("var", norm.running_var.detach().clone())
        gamma = torch.ones_like(self.var) if norm.weight is None else norm.weight.detach().clone()
        beta = torch.zeros_like(self.var) if norm.bias is None else norm.bias.detach().clone()
        self.gamma, self.beta = nn.Parameter(gamma), nn.Parameter(beta)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every channel with the scaled mean and beta."""
        centred = x - self.s * by_channel(self.mean, x)
        root = torch.sqrt(by_channel(self.var, x) + self.eps)
        return by_channel(self.gamma, x) * centred / root + self.s * by_channel(self.beta, x)


def replace_norms(module: nn.Module, make) -> nn.Module:
    """Replace, in place, every BatchNorm inside the module by make(BatchNorm)."""
    if isinstance(module, _BatchNorm):
        return make(module)
    for name, child in list(module._modules.items()):
        if child is not None:
            module._modules[name] = replace_norms(child, make)
    return module


def without_biases(model: nn.Module) -> nn.Module:
    """A copy whose convolution, linear, group and layer norm biases are zeros and whose BatchNorms only scale."""
    network = copy.deepcopy(model).eval()
    for module in network.modules():
        if isinstance(module, BIASED) and module.bias is not None:
            module.bias.data = torch.zeros_like(module.bias.data)
    return replace_norms(network, ScaleOnly).eval()


def scaled_biases(model: nn.Module, s: float) -> nn.Module:
    """A copy whose biases are s times the model's; in BatchNorm, the mean and beta (group and layer norms too)."""
    network = copy.deepcopy(model).eval()
    for old, new in zip(model.modules(), network.modules()):
        if isinstance(new, BIASED) and new.bias is not None:
            new.bias.data = s * old.bias.detach()
    return replace_norms(network, lambda norm: ScaledNorm(norm, s)).eval()


def correlation_slope_intercept(f: Tensor, f0: Tensor) -> tuple[float, float, float]:
    """One image: Pearson correlation of f and f0, and alpha and c of the least-squares line f0 = alpha f + c."""
    a, b = f.detach().numpy(), f0.detach().numpy()
    alpha, c = numpy.polyfit(a, b, 1)
    return float(numpy.corrcoef(a, b)[0, 1]), float(alpha), float(c)


def top_k_right(scores: Tensor, classes: set[int], k: int) -> bool:
    """One image: is any of the right classes among the k highest scores?"""
    values = scores.tolist()
    order = sorted(range(len(values)), key=lambda c: values[c], reverse=True)
    return any(c in classes for c in order[:k])


def log_softmax(z: Tensor) -> Tensor:
    """The logarithm of the softmax of one image's scores."""
    top = z.max().detach()
    return z - top - torch.log(torch.sum(torch.exp(z - top)))


def distillation_loss(f: Tensor, g: Tensor, temperature: float) -> Tensor:
    """temperature**2 * mean over images of sum_c p_c (log p_c - log q_c), p from f and q from g."""
    total = torch.zeros((), dtype=g.dtype)
    for i in range(len(f)):
        log_p, log_q = log_softmax(f[i] / temperature), log_softmax(g[i] / temperature)
        for c in range(len(log_p)):
            total = total + torch.exp(log_p[c]) * (log_p[c] - log_q[c])
    return temperature**2 * total / len(f)


def set_biases(network: nn.Module, original: nn.Module, scale: float) -> None:
    """Set every bias, BatchNorm's running mean included, to scale times the original's."""
    for old, new in zip(original.modules(), network.modules()):
        if isinstance(new, BIASED + (_BatchNorm,)) and new.bias is not None:
            new.bias.data = scale * old.bias.detach()
        if isinstance(new, _BatchNorm):
            new.running_mean.data = scale * old.running_mean


def decay(
    model: nn.Module,
    batches: list[Tensor],
    steps: int,
    updates_per_step: int,
    lr: float,
    temperature: float,
    exponential: bool = False,
    at_zero: int = 0,
) -> tuple[nn.Module, list[tuple[float, float]]]:
    """Bring the biases to zero in steps while Adam (one state throughout) fits the weights to the original's scores."""
    original, network = copy.deepcopy(model).eval(), copy.deepcopy(model).eval()
    modules = [m for m in network.modules() if isinstance(m, BIASED + (_BatchNorm,))]
    bias_ids = {id(m.bias) for m in modules if m.bias is not None}
    bias_ids |= {id(m.weight) for m in modules if isinstance(m, _BatchNorm)}  # gamma stays what it was
    weights = [w.requires_grad_(True) for w in network.parameters() if id(w) not in bias_ids]
    first, second = [torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights]
    history: list[tuple[float, float]] = []
    count = 0
    for t in range(1, steps + at_zero + 1):
        scale = (0.001 ** (t / steps) if exponential else 1 - t / steps) if t < steps else 0.0
        set_biases(network, original, scale)
        losses: list[float] = []
        for _ in range(updates_per_step):
            x = batches[count % len(batches)]
            count += 1
            with torch.no_grad():
                f = original(x)
            loss = distillation_loss(f, network(x), temperature)
            grads = torch.autograd.grad(loss, weights)
            for i, (w, grad) in enumerate(zip(weights, grads)):
                first[i] = 0.9 * first[i] + 0.1 * grad
                second[i] = 0.999 * second[i] + 0.001 * grad * grad
                m_hat, v_hat = first[i] / (1 - 0.9**count), second[i] / (1 - 0.999**count)
                w.data = w.data - lr * m_hat.detach() / (torch.sqrt(v_hat.detach()) + 1e-8)
            losses.append(loss.item())
        history.append((scale, sum(losses) / len(losses) if losses else math.nan))
    return network, history


def accuracy_when(model: nn.Module, x: Tensor, labels: list[int], scale: float, shift: float) -> float:
    """The share of images whose highest class of model(scale * x + shift) is their label."""
    network = copy.deepcopy(model).eval()
    right = 0
    for i in range(len(x)):
        with torch.no_grad():
            scores = network(scale * x[i : i + 1] + shift)[0].tolist()
        right += scores.index(max(scores)) == int(labels[i])
    return right / len(x)
