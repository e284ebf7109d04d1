"""Reference propagation rules: slow and literal, for small networks, one example at a time, in float64.

A network is a list of steps in the order of execution. Every step reads named values and writes one named value. The
network input is named "x" and the last step writes the logits. Indices: j runs over all elements of a step's input and
k over all elements of its output; a_j is the input, w_jk the dense weight, b_k the bias, z_jk = a_j w_jk.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Step:
    """One operation: linear, relu, relu6, add, cat, max_pool, avg_pool, batch_norm, flatten (or identity)."""

    kind: str
    inputs: tuple[str, ...]
    output: str
    module: nn.Module | None = None


@dataclass(frozen=True)
class Rules:
    """The function for each kind of step whose rule varies; max_pool, cat and flatten are the same under all rules."""

    linear: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (a_j, w_jk, b_k, R_k) -> R_j
    relu: Callable[[Tensor, Tensor], Tensor]  # (output activation, R) -> R
    relu6: Callable[[Tensor, Tensor], Tensor]  # (output activation, R) -> R
    add: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # (x, y, R) -> (R_x, R_y)
    avg_pool: Callable[[Tensor, Tensor, Tensor], Tensor]  # (a_j, w_jk, R_k) -> R_j
    batch_norm: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (x, s, t, R) -> R, the step being s x + t
    merge_batch_norm: bool = False  # treat linear followed by batch_norm as one affine map


# ---------------------------------------------------------------------------------------------- the network


def apply(step: Step, inputs: Sequence[Tensor]) -> Tensor:
    """The output of one step, with its module in float64 and in evaluation mode."""
    if step.kind == "relu":
        return F.relu(inputs[0])
    if step.kind == "relu6":
        return F.relu6(inputs[0])
    if step.kind == "add":
        return inputs[0] + inputs[1]
    if step.kind == "cat":
        return torch.cat(list(inputs), dim=1)
    if step.kind == "flatten":
        return inputs[0].flatten(1)
    if step.kind in ("linear", "max_pool", "avg_pool", "batch_norm"):
        output: Tensor = in_float64(step.module)(inputs[0])
        return output
    raise ValueError(f"unknown kind of step: {step.kind}")


def in_float64(module: nn.Module | None) -> nn.Module:
    """A copy of the module in float64 and evaluation mode."""
    assert module is not None
    return copy.deepcopy(module).double().eval()


def forward(steps: Sequence[Step], x: Tensor) -> Values:
    """All values by name."""
    assert x.shape[0] == 1, "one example at a time"
    values: Values = {"x": x.double()}
    for step in steps:
        values[step.output] = apply(step, [values[name] for name in step.inputs])
    return values


def affine_map(module: nn.Module | None, a: Tensor) -> tuple[Tensor, Tensor]:
    """Dense w_jk and b_k of an affine module: b = f(0), w_j = f(e_j) - f(0).

    For Sequential(linear, batch_norm): w_jk s_k and b_k s_k + t_k, the batch norm being s x + t.
    """
    if isinstance(module, nn.Sequential):
        linear, batch_norm = module
        W, b = affine_map(linear, a)
        s, t = scale_and_shift(batch_norm)
        zeros = torch.zeros_like(in_float64(linear)(a))
        s_k, t_k = (zeros + s).flatten(), (zeros + t).flatten()
        return W * s_k, b * s_k + t_k
    f = in_float64(module)
    b = f(torch.zeros_like(a)).flatten()
    units = torch.eye(a.numel(), dtype=a.dtype).reshape(-1, *a.shape[1:])
    return f(units).flatten(1) - b, b


def scale_and_shift(module: nn.Module | None) -> tuple[Tensor, Tensor]:
    """BatchNorm in evaluation mode as s x + t: s = weight / sqrt(var + eps), t = bias - mean s."""
    bn = in_float64(module)
    assert isinstance(bn, nn.BatchNorm2d)
    s = 1.0 / torch.sqrt(bn.running_var + bn.eps)
    if bn.affine:
        s = s * bn.weight
    t = -bn.running_mean * s
    if bn.affine:
        t = t + bn.bias
    return s.reshape(1, -1, 1, 1), t.reshape(1, -1, 1, 1)


def merge(steps: Sequence[Step]) -> list[Step]:
    """Put each batch_norm that is the only reader of a linear step into that step; R passes it unchanged."""
    merged = list(steps)
    for n, bn in enumerate(steps):
        if bn.kind != "batch_norm" or sum(step.inputs.count(bn.inputs[0]) for step in steps) != 1:
            continue
        for m, linear in enumerate(steps):
            if linear.kind == "linear" and linear.output == bn.inputs[0]:
                assert linear.module is not None
                assert bn.module is not None
                both = nn.Sequential(linear.module, bn.module)
                merged[m] = Step("linear", linear.inputs, linear.output, both)
                merged[n] = Step("identity", bn.inputs, bn.output)
    return merged


# ---------------------------------------------------------------------------------------------- propagation


def step_back(step: Step, inputs: Sequence[Tensor], output: Tensor, R: Tensor, rules: Rules) -> list[Tensor]:
    """R at each input of one step, from R at its output."""
    a = inputs[0]
    if step.kind == "linear":
        W, b = affine_map(step.module, a)
        return [rules.linear(a.flatten(), W, b, R.flatten()).reshape(a.shape)]
    if step.kind == "relu":
        return [rules.relu(output, R)]
    if step.kind == "relu6":
        return [rules.relu6(output, R)]
    if step.kind == "add":
        return list(rules.add(inputs[0], inputs[1], R))
    if step.kind == "avg_pool":
        W, _ = affine_map(step.module, a)
        return [rules.avg_pool(a.flatten(), W, R.flatten()).reshape(a.shape)]
    if step.kind == "max_pool":
        return [winner_takes_all(step.module, a, R)]
    if step.kind == "batch_norm":
        s, t = scale_and_shift(step.module)
        return [rules.batch_norm(a, s, t, R)]
    if step.kind == "cat":
        return list(torch.split(R, [value.shape[1] for value in inputs], dim=1))
    if step.kind == "flatten":
        return [R.reshape(a.shape)]
    if step.kind == "identity":
        return [R]
    raise ValueError(f"unknown kind of step: {step.kind}")


@torch.no_grad()
def propagate(
    steps: Sequence[Step], values: Values, R_output: Tensor, rules: Rules, start: str | None = None
) -> Values:
    """R at every value, summed over all steps that read it, from R_output at `start` (by default at the logits)."""
    assert all(value.shape[0] == 1 for value in values.values()), "one example at a time"
    assert all(value.dtype == torch.float64 for value in values.values())
    R = {name: torch.zeros_like(value) for name, value in values.items()}
    start = steps[-1].output if start is None else start
    R[start] = R_output.double().reshape(values[start].shape)
    for step in reversed(merge(steps) if rules.merge_batch_norm else steps):
        inputs = [values[name] for name in step.inputs]
        parts = step_back(step, inputs, values[step.output], R[step.output], rules)
        for name, part in zip(step.inputs, parts, strict=True):
            R[name] = R[name] + part
    return R


def one_hot(logits: Tensor, target: int) -> Tensor:
    """1 at the target and 0 elsewhere."""
    seed = torch.zeros_like(logits, dtype=torch.float64)
    seed[0, target] = 1.0
    return seed


@torch.no_grad()
def contrastive(
    steps: Sequence[Step],
    values: Values,
    target: int,
    clamp: bool,
    classifier: str | None = None,
    sums: str = "signed",
    spread: bool = False,
) -> Values:
    """Contrastive excitation backprop: P - P_bar, or its positive part, at the classifier's input, propagated on.

    P and P_bar come from the same one-hot seed, with the classifier's weights w and -w. `classifier` is the output name
    of a linear step, by default the last one. At and above the classifier's output the result is that of P.
    """
    linear = [step for step in steps if step.kind == "linear" and classifier in (None, step.output)][-1]
    name = linear.inputs[0]
    rules = excitation_rules(sums, spread)
    above = propagate(steps, values, one_hot(values[steps[-1].output], target), rules)
    a, R = values[name].flatten(), above[linear.output].flatten()
    W, _ = affine_map(linear.module, values[name])
    P, P_bar = excitation(a, W, R, spread), excitation(a, -W, R, spread)
    contrast = (P - P_bar).clamp(min=0) if clamp else P - P_bar
    below = propagate(steps, values, contrast, rules, start=name)
    seen = [step.output for step in steps[list(steps).index(linear) :]]
    return {key: above[key] if key in seen else below[key] for key in values}


def per_example(function: Callable[..., Values], *batches: Tensor) -> Values:
    """Call the function with one example of every batch at a time and put the results together along dimension 0.

    Example: per_example(lambda x, R: propagate(steps, forward(steps, x), R, rules), inputs, seeds)
    """
    results = [function(*(batch[i : i + 1] for batch in batches)) for i in range(len(batches[0]))]
    return {name: torch.cat([result[name] for result in results]) for name in results[0]}


# ---------------------------------------------------------------------------------------------- rules for linear steps


def ratio(c: Tensor, d: Tensor, epsilon: float = 0.0) -> Tensor:
    """c / (d + epsilon sign(d)) with sign(0) = +1; 0 where d = 0."""
    sign = torch.where(d >= 0, 1.0, -1.0).to(d)
    safe = torch.where(d == 0, torch.ones_like(d), d + epsilon * sign)
    return torch.where(d == 0, torch.zeros_like(c), c / safe)


def lrp_gamma(a: Tensor, W: Tensor, b: Tensor, R: Tensor, gamma: float, epsilon: float = 0.0) -> Tensor:
    """R_j = sum_k c_jk / d_k R_k, c_jk = z_jk + gamma z_jk^+, d_k = sum_j c_jk + b_k + gamma b_k^+.

    Below an output z_k = sum_j z_jk + b_k < 0, negative parts stand in place of the positive ones.
    """
    z = a[:, None] * W
    negative = z.sum(0) + b < 0
    c = z + gamma * torch.where(negative, z.clamp(max=0), z.clamp(min=0))
    d = c.sum(0) + b + gamma * torch.where(negative, b.clamp(max=0), b.clamp(min=0))
    return (ratio(c, d, epsilon) * R).sum(1)


def lrp_alpha_beta(a: Tensor, W: Tensor, R: Tensor, alpha: float, beta: float) -> Tensor:
    """R_j = sum_k (alpha z_jk^+ / sum_j z_jk^+ - beta z_jk^- / sum_j z_jk^-) R_k, biases ignored."""
    z = a[:, None] * W
    positive, negative = z.clamp(min=0), (-z).clamp(min=0)
    share = alpha * ratio(positive, positive.sum(0)) - beta * ratio(negative, negative.sum(0))
    return (share * R).sum(1)


def excitation(a: Tensor, W: Tensor, R: Tensor, spread: bool = False) -> Tensor:
    """R_j = sum_k P_jk R_k, P_jk = (a_j w_jk)^+ / sum_j (a_j w_jk)^+, as `share` says where that sum is 0."""
    return (share(a[:, None] * W, (W != 0).to(W), "positive", spread) * R).sum(1)


def gradient(W: Tensor, R: Tensor) -> Tensor:
    """R_j = sum_k w_jk R_k."""
    return (W * R).sum(1)


# ---------------------------------------------------------------------------------------------- rules for other steps


def share(z: Tensor, part: Tensor, sums: str, spread: bool) -> Tensor:
    """Shares over dimension 0 of the contributions z.

    `sums="signed"`: z / sum z; "positive": z^+ / sum z^+. Where that sum is 0: 0, or with `spread` |z| / sum |z|, and
    where all z are 0 equal shares of the entries that take part (`part` is 1 there; elsewhere z is 0).
    """
    c = z if sums == "signed" else z.clamp(min=0)
    if spread:
        equal = part.expand_as(z)
        magnitude = torch.where(z.abs().sum(0) > 0, z.abs(), equal)
        c = torch.where(c.sum(0) == 0, magnitude, c)
    return ratio(c, c.sum(0))


def add(x: Tensor, y: Tensor, R: Tensor, sums: str = "signed", spread: bool = False) -> tuple[Tensor, Tensor]:
    """R split in proportion to the addends: x / (x + y) and y / (x + y), or as `share` says."""
    z = torch.stack([x, y])
    shares = share(z, torch.ones_like(z), sums, spread)
    return shares[0] * R, shares[1] * R


def add_lrp(x: Tensor, y: Tensor, R: Tensor, gamma: float, epsilon: float) -> tuple[Tensor, Tensor]:
    """The addition as a linear map with weights 1: `lrp_gamma` without bias."""
    shape, W, none = x.shape, torch.ones(2, 1).to(x), torch.zeros(1).to(x)
    rows = [
        lrp_gamma(torch.stack(pair), W, none, r.reshape(1), gamma, epsilon)
        for pair, r in zip(zip(x.flatten(), y.flatten(), strict=True), R.flatten(), strict=True)
    ]
    both = torch.stack(rows)
    return both[:, 0].reshape(shape), both[:, 1].reshape(shape)


def avg_pool(a: Tensor, W: Tensor, R: Tensor, sums: str = "signed", spread: bool = False) -> Tensor:
    """As `add`, with the contributions z_jk of the elements j of each window k."""
    return (share(a[:, None] * W, (W != 0).to(W), sums, spread) * R).sum(1)


def avg_pool_lrp(a: Tensor, W: Tensor, R: Tensor, gamma: float, epsilon: float) -> Tensor:
    """The average as a linear map: `lrp_gamma` without bias."""
    return lrp_gamma(a, W, torch.zeros_like(R), R, gamma, epsilon)


def winner_takes_all(module: nn.Module | None, a: Tensor, R: Tensor) -> Tensor:
    """Each window's R goes to the position of its maximum (the first one in a tie)."""
    f = in_float64(module)
    f.return_indices = True  # type: ignore[assignment]
    _, winners = f(a)
    result = torch.zeros_like(a).flatten(2)
    for channel in range(a.shape[1]):
        for winner, r in zip(winners[0, channel].flatten(), R[0, channel].flatten(), strict=True):
            result[0, channel, winner] += r
    return result.reshape(a.shape)


def batch_norm_lrp(x: Tensor, s: Tensor, t: Tensor, R: Tensor, epsilon: float) -> Tensor:
    """s x / (s x + t) R, stabilised."""
    return ratio(s * x, s * x + t, epsilon) * R


def relu_gradient(a: Tensor, R: Tensor) -> Tensor:
    """R where a > 0."""
    return torch.where(a > 0, R, torch.zeros_like(R))


def relu6_gradient(a: Tensor, R: Tensor) -> Tensor:
    """R where 0 < a < 6."""
    return torch.where((a > 0) & (a < 6), R, torch.zeros_like(R))


def relu_guided(a: Tensor, R: Tensor) -> Tensor:
    """R where a > 0 and R > 0."""
    return torch.where((a > 0) & (R > 0), R, torch.zeros_like(R))


def relu_deconvolution(a: Tensor, R: Tensor) -> Tensor:
    """R^+."""
    return R.clamp(min=0)


def relu_rectgrad(a: Tensor, R: Tensor, q: float) -> Tensor:
    """R where a R > tau, the q-th percentile of a R over all channels and positions."""
    tau = float(np.percentile((a * R).numpy(), q))
    return torch.where(a * R > tau, R, torch.zeros_like(R))


def relu_rectgrad_mod(a: Tensor, R: Tensor, q: float) -> Tensor:
    """R where |a R| > tau, the q-th percentile of a R."""
    tau = float(np.percentile((a * R).numpy(), q))
    return torch.where((a * R).abs() > tau, R, torch.zeros_like(R))


# ---------------------------------------------------------------------------------------------- families of rules


def z_plus_family(
    linear: Callable[[Tensor, Tensor, Tensor], Tensor], sums: str = "signed", spread: bool = False
) -> Rules:
    """A rule (a, w, R) that ignores biases; sums and pooling by `share`; ReLU and batch norm pass R."""
    return Rules(
        linear=lambda a, W, b, R: linear(a, W, R),
        relu=lambda a, R: R,
        relu6=lambda a, R: R,
        add=partial(add, sums=sums, spread=spread),
        avg_pool=partial(avg_pool, sums=sums, spread=spread),
        batch_norm=lambda x, s, t, R: R,
    )


def excitation_rules(sums: str = "signed", spread: bool = False) -> Rules:
    """Excitation backprop."""
    return z_plus_family(partial(excitation, spread=spread), sums, spread)


def lrp_alpha_beta_rules(alpha: float, beta: float) -> Rules:
    """LRP-alpha-beta."""
    return z_plus_family(partial(lrp_alpha_beta, alpha=alpha, beta=beta))


def lrp_gamma_rules(gamma: float, epsilon: float = 0.0) -> Rules:
    """LRP-gamma; with an infinite gamma the z+ rule."""
    if gamma == float("inf"):
        return excitation_rules()
    return Rules(
        linear=partial(lrp_gamma, gamma=gamma, epsilon=epsilon),
        relu=lambda a, R: R,
        relu6=lambda a, R: R,
        add=partial(add_lrp, gamma=gamma, epsilon=epsilon),
        avg_pool=partial(avg_pool_lrp, gamma=gamma, epsilon=epsilon),
        batch_norm=partial(batch_norm_lrp, epsilon=epsilon),
        merge_batch_norm=True,
    )


def gradient_family(relu: Callable[[Tensor, Tensor], Tensor]) -> Rules:
    """The plain gradient everywhere but at ReLU and ReLU6, which have the given rule.

    For another rule at ReLU6: dataclasses.replace(rules, relu6=relu6_gradient).
    """
    return Rules(
        linear=lambda a, W, b, R: gradient(W, R),
        relu=relu,
        relu6=relu,
        add=lambda x, y, R: (R, R),
        avg_pool=lambda a, W, R: gradient(W, R),
        batch_norm=lambda x, s, t, R: s * R,
    )


def gradient_rules() -> Rules:
    """The plain gradient."""
    return replace(gradient_family(relu_gradient), relu6=relu6_gradient)


def guided_rules() -> Rules:
    """Guided backprop; nothing passes where a ReLU6 saturates."""
    return replace(gradient_family(relu_guided), relu6=lambda a, R: relu_guided(a, R) * (a < 6))


def deconvolution_rules() -> Rules:
    """Deconvnet."""
    return gradient_family(relu_deconvolution)


def rectgrad_rules(q: float = 98.0) -> Rules:
    """RectGrad; the map is R at the input times the input."""
    return gradient_family(partial(relu_rectgrad, q=q))


def rectgrad_mod_rules(q: float = 98.0) -> Rules:
    """RectGrad_Mod; the map is R at the input times the input."""
    return gradient_family(partial(relu_rectgrad_mod, q=q))
