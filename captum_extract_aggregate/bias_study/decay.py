"""Biases scaled to zero in steps while the network learns to give what it gave with them.

Source: Grabska-Barwinska, Measuring and improving the quality of visual explanations (2020), appendix C.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_extract_aggregate.bias_study.batches import Batch, as_batch, check_eval, hits, outputs_of, same_decision
from captum_extract_aggregate.bias_study.removal import bias_tensors
from captum_extract_aggregate.draws import seed_all, seeded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMAT = "captum_extract_aggregate: decayed biases, 1"


@dataclass(frozen=True)
class DecayStep:
    """One step: how far the biases are, and how the network did on the step's batches before its weights moved.

    `loss`: see `decay_biases`. `same_decision`: the share of images with the original's highest class. `top1`: the
    share of right ones; NaN without labels.
    """

    step: int
    scale: float
    loss: float
    same_decision: float
    top1: float


class DecayedBiases(NamedTuple):
    """The network without biases, and how it came to be, step by step (`plot_decay`)."""

    model: nn.Module
    history: list[DecayStep]


def decay_biases(
    model: nn.Module,
    dataloader: Iterable[Any],
    steps: int = 200,
    updates_per_step: int = 1,
    lr: float = 5e-6,
    temperature: float = 100.0,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 10,
    show_progress: bool = True,
) -> DecayedBiases:
    r"""A copy of the network whose biases are scaled to zero while its weights make up for them.

    At step t of T the biases (those of `remove_biases`) are :math:`1 - t / T` times the original's; then the other
    parameters take `updates_per_step` steps of Adam on

    .. math:: \tau^2 \, \mathrm{mean}_i \, \mathrm{KL}\big(\mathrm{softmax}(f(x_i) / \tau) \,\|\,
              \mathrm{softmax}(\hat f(x_i) / \tau)\big),

    the cross-entropy to the original's outputs at temperature :math:`\tau` but for a constant and the factor
    :math:`\tau^2`, which keeps the gradient's size where it would be at temperature 1 (Adam's own epsilon would swamp
    it otherwise). No labels are needed. The network stays in eval mode: running variances do not change.

    The data's order is drawn from the seed, anew for each pass, so that a run that was interrupted and goes on from its
    checkpoint gives bit for bit what an uninterrupted run gives on the same machine (with a data loader whose order and
    augmentation come from Python's, NumPy's or torch's global generator, or from its `generator`).

    Args:
        model: a classifier in eval mode with outputs `N x classes`. It is left as it was.
        dataloader: as for `bias_report`; gone through as often as needed. Labels are only counted.
        steps: of the decay. The published 200, with a batch each, suit a network that has been trained for days:
            see the history's loss for whether the network keeps up, and raise `updates_per_step` or `lr` if not.
        updates_per_step: batches for each step.
        lr: Adam's.
        temperature: of the softmax.
        seed: of the data's order.
        checkpoint: a file, written every `checkpoint_every` steps and at the end; if it is there, it is continued.
        checkpoint_every: how many steps lie between.
        show_progress: show a progress bar with the loss.

    Returns:
        `DecayedBiases(model, history)`.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected; for a checkpoint of another
            network or other arguments, or a damaged one; where the loss is no longer a number.

    Example:
        >>> import torch
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.bias_study import decay_biases
        >>> x = torch.stack([image for image, _ in cea.DigitScenes(8)])
        >>> model = cea.load_scene_model("resnet")
        >>> decayed, history = decay_biases(model, [x], steps=2, show_progress=False)
        >>> [step.scale for step in history], decayed.fc.bias.abs().max().item()
        ([0.5, 0.0], 0.0)

    Source: Grabska-Barwinska (2020), appendix C.
    """
    check_eval(model)
    _check(steps, updates_per_step, lr, temperature, checkpoint_every)
    run = _Decay(model, dataloader, lr, temperature)
    settings = {
        "steps": steps,
        "updates_per_step": updates_per_step,
        "lr": lr,
        "temperature": temperature,
        "seed": seed,
        "network": _digest(model),
    }
    path = None if checkpoint is None else Path(checkpoint)
    done = 0 if path is None else _resume(path, settings, run)
    with seeded(seed), _own_generator(dataloader):
        batches = run.batches(seed, skip=done * updates_per_step)
        bar = tqdm(range(done + 1, steps + 1), desc="Decaying biases", initial=done, total=steps, unit="step",
                   disable=None if show_progress else True)  # fmt: skip
        for step in bar:
            chosen = [next(batches) for _ in range(updates_per_step)]
            run.history.append(run.step(step, 1 - step / steps, chosen))
            bar.set_postfix(loss=f"{run.history[-1].loss:.4g}")
            if path is not None and (step % checkpoint_every == 0 or step == steps):
                _save(path, settings, run)
    return DecayedBiases(run.finished(), run.history)


class _Decay:
    """The network on its way, with its optimiser and history."""

    def __init__(self, model: nn.Module, dataloader: Iterable[Any], lr: float, temperature: float) -> None:
        self.original, self.dataloader, self.temperature = model, dataloader, temperature
        self.biases = {name: t.detach().clone() for name, t in bias_tensors(model).items()}
        if not self.biases:
            raise ValueError(f"the model ({type(model).__name__}) has no biases; expected one with some")
        self.network = copy.deepcopy(model)
        tensors = bias_tensors(self.network)
        self.weights = [p for p in self.network.parameters() if not any(p is t for t in tensors.values())]
        self.weights = [p for p in self.weights if p.is_floating_point()]
        for p in self.network.parameters():
            p.requires_grad_(any(p is w for w in self.weights))
        self.optimizer = torch.optim.Adam(self.weights, lr=lr)
        self.history: list[DecayStep] = []

    def step(self, step: int, scale: float, chosen: Sequence[Batch]) -> DecayStep:
        """Scales the biases, then moves the weights once for each batch."""
        with torch.no_grad():
            for name, t in bias_tensors(self.network).items():
                t.copy_(self.biases[name] * scale)
        found = torch.stack([self._update(*batch) for batch in chosen]).mean(0).tolist()
        return DecayStep(step, scale, *found)

    def _update(self, x: Tensor, labels: Tensor | None) -> Tensor:
        with torch.no_grad():
            wanted = outputs_of(self.original, x)
        with torch.enable_grad():
            output = outputs_of(self.network, x)
            loss = distillation_loss(output, wanted, self.temperature)
            if not loss.isfinite():
                raise ValueError(
                    f"the loss is {loss.item()} at step {len(self.history) + 1}; expected a finite one: lower lr, or "
                    "look for inputs that are no numbers"
                )
            gradients = torch.autograd.grad(loss, self.weights, allow_unused=True)
        for p, g in zip(self.weights, gradients):
            p.grad = g
        self.optimizer.step()
        self.optimizer.zero_grad()
        output = output.detach()
        values = loss.detach(), same_decision(wanted, output).nanmean(), hits(output, labels, 1).nanmean()
        return torch.stack([v.double().cpu() for v in values])

    def batches(self, seed: int, skip: int) -> Iterator[Batch]:
        """Batches without end; the first `skip` are passed over."""
        epoch = 0
        while True:
            seed_all(seed + epoch)
            generator = _generator(self.dataloader)
            if generator is not None:
                generator.manual_seed(seed + epoch)
            seen = 0
            for batch in self.dataloader:
                seen += 1
                if skip:
                    skip -= 1
                else:
                    yield as_batch(batch, self.original)
            if not seen:
                again = "; expected one that can be gone through again" if epoch else "; expected at least one"
                raise ValueError(f"dataloader gives no batch{again}")
            epoch += 1

    def finished(self) -> nn.Module:
        """The network, with the original's flags."""
        for p, original in zip(self.network.parameters(), self.original.parameters()):
            p.requires_grad_(original.requires_grad)
            p.grad = None
        return self.network


def distillation_loss(output: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Temperature squared times the mean divergence between softened outputs."""
    first, second = F.log_softmax(output / temperature, 1), F.log_softmax(wanted / temperature, 1)
    return temperature**2 * F.kl_div(first, second, reduction="batchmean", log_target=True)


def plot_decay(history: Sequence[DecayStep]) -> Figure:
    """The scale of the biases, the loss and the decisions over the steps: `figure.savefig(path)`.

    Example:
        >>> from captum_extract_aggregate.bias_study import DecayStep, plot_decay
        >>> plot_decay([DecayStep(1, 0.5, 0.2, 1.0, 0.9), DecayStep(2, 0.0, 0.1, 0.9, 0.9)]).savefig("/dev/null")
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    steps = [h.step for h in history]
    left.plot(steps, [h.loss for h in history], color="#0072B2")
    left.set(xlabel="step", ylabel="loss", yscale="log")
    right.plot(steps, [h.same_decision for h in history], color="#0072B2", label="same decision as the original")
    if any(h.top1 == h.top1 for h in history):
        right.plot(steps, [h.top1 for h in history], color="#D55E00", linestyle="-.", label="right (top-1)")
    right.plot(steps, [h.scale for h in history], color="black", linestyle=":", label="scale of the biases")
    right.set(xlabel="step", ylabel="share of images; scale", ylim=(-0.02, 1.02))
    right.legend(fontsize=7)
    return figure


# --- Checkpoints and checks ------------------------------------------------------------------------------------------


def _save(path: Path, settings: dict[str, Any], run: _Decay) -> None:
    content = {
        "format": _FORMAT,
        "settings": settings,
        "network": run.network.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "history": [asdict(step) for step in run.history],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        torch.save(content, new)
        os.replace(new, path)  # at any instant the file is the old one or the new one
    finally:
        new.unlink(missing_ok=True)


def _resume(path: Path, settings: dict[str, Any], run: _Decay) -> int:
    """Puts the run where the checkpoint left it; how many steps are done."""
    if not path.exists():
        return 0
    cure = "expected one that decay_biases wrote: delete it, or name another"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file raises
        raise ValueError(f"checkpoint {str(path)!r} cannot be read ({type(error).__name__}); {cure}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"checkpoint {str(path)!r} holds something else; {cure}")
    other = [name for name, value in settings.items() if content["settings"].get(name) != value]
    if other:
        raise ValueError(f"checkpoint {str(path)!r} is of another {other[0]}; {cure}")
    run.network.load_state_dict(content["network"])
    run.optimizer.load_state_dict(content["optimizer"])
    run.history = [DecayStep(**step) for step in content["history"]]
    return len(run.history)


def _digest(model: nn.Module) -> str:
    found = hashlib.sha256()
    for name, t in model.state_dict().items():
        found.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        found.update(t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _generator(dataloader: Any) -> torch.Generator | None:
    return getattr(dataloader, "generator", None)


@contextlib.contextmanager
def _own_generator(dataloader: Any) -> Iterator[None]:
    """A generator of the data loader's own comes back as it was."""
    generator = _generator(dataloader)
    before = None if generator is None else generator.get_state()
    try:
        yield
    finally:
        if generator is not None and before is not None:
            generator.set_state(before)


def _check(steps: int, updates_per_step: int, lr: float, temperature: float, checkpoint_every: int) -> None:
    counts = {"steps": steps, "updates_per_step": updates_per_step, "checkpoint_every": checkpoint_every}
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; expected a whole number from 1")
    for name, number in {"lr": lr, "temperature": temperature}.items():
        if not (number > 0 and math.isfinite(number)):
            raise ValueError(f"{name} is {number!r}; expected a positive number")
