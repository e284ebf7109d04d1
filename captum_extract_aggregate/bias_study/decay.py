"""Biases scaled to zero in steps while the network learns to give what it gave with them.

Source: Grabska-Barwinska, Measuring and improving the quality of visual explanations (2020), appendix C.
"""

from __future__ import annotations

import hashlib
import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_extract_aggregate._common.errors import InvalidValueError, unknown_name
from captum_extract_aggregate._common.seeding import seed_all, seeded
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.model_state import keep_modes
from captum_extract_aggregate.bias_study.batches import (
    Batch,
    as_batch,
    check_eval,
    check_loader,
    hits,
    outputs_of,
    same_decision,
)
from captum_extract_aggregate.bias_study.removal import batch_norm_scales, bias_tensors, copied

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMAT = "captum_extract_aggregate: decayed biases, 2"
_SMALLEST = 1e-3  # what an exponential decay leaves of the biases before they are set to zero


Schedule = Literal["linear", "exponential"]


@dataclass(frozen=True)
class DecayStep:
    """Holds one step: how far the biases are, and how the network did on the step's batches.

    Means over the step's images, each batch's before the weights moved for it. `loss`: see `decay_biases`.
    `same_decision`: the share with the original's highest class. `top1`: the share of right ones; NaN without labels.
    """

    step: int
    scale: float
    loss: float
    same_decision: float
    top1: float


class DecayedBiases(NamedTuple):
    """Holds the network without biases, and how it came to be, step by step (`plot_decay`)."""

    model: nn.Module
    history: list[DecayStep]


def decay_biases(
    model: nn.Module,
    dataloader: Iterable[Any],
    steps: int = 200,
    updates_per_step: int = 200,
    lr: float = 5e-6,
    temperature: float = 100.0,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 10,
    show_progress: bool = True,
    schedule: Schedule = "linear",
    steps_at_zero: int = 0,
) -> DecayedBiases:
    r"""Returns a copy of the network whose biases are scaled to zero while its weights make up for them.

    At step t of T the biases (those of `remove_biases`) are :math:`1 - t / T` times the original's; then the weights
    take `updates_per_step` steps of Adam on

    .. math:: \tau^2 \, \mathrm{mean}_i \, \mathrm{KL}\big(\mathrm{softmax}(f(x_i) / \tau) \,\|\,
              \mathrm{softmax}(\hat f(x_i) / \tau)\big),

    the cross-entropy to the original's outputs at temperature :math:`\tau` but for a constant and the factor
    :math:`\tau^2`, which keeps the gradient's size where it would be at temperature 1 (Adam's own epsilon would swamp
    it otherwise). No labels are needed. Batch normalisation's scales and running variances stay as they are, and the
    network stays in eval mode.

    The data's order is drawn from the seed, anew for each pass, so that a run that was interrupted and goes on from its
    checkpoint gives bit for bit what an uninterrupted run gives on the same machine: with a data loader whose order and
    augmentation come from Python's, NumPy's or torch's global generator, or from its own or its sampler's `generator`.

    Args:
        model: a classifier in eval mode with outputs `N x classes`, in float32 or float64. It is left as it was.
        dataloader: as for `bias_report`; gone through as often as needed. Labels are only counted.
        steps: of the decay.
        updates_per_step: batches for each step. The published schedule takes 200 batches of 64 images at each of 200
            steps; fewer are another experiment. See the history's loss for whether the network keeps up.
        lr: Adam's.
        temperature: of the softmax.
        seed: of the data's order.
        checkpoint: a file, written every `checkpoint_every` steps and at the end; if it is there, it is continued.
        checkpoint_every: how many steps lie between.
        show_progress: show a progress bar with the loss.
        schedule: `"linear"`, or `"exponential"`: :math:`0.001^{t / T}`, and zero at the last step. Both are published;
            how fast the exponential one falls is not.
        steps_at_zero: further steps of training with the biases at zero.

    Returns:
        `DecayedBiases(model, history)`.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected; for a checkpoint of another
            network, other data or other arguments, or a damaged one; where the loss is no longer a number.

    Example:
        >>> import torch
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.bias_study import decay_biases
        >>> x = torch.stack([image for image, _ in cea.DigitScenes(8)])
        >>> model = cea.load_scene_model("resnet")
        >>> decayed, history = decay_biases(model, [x], steps=2, updates_per_step=1, show_progress=False)
        >>> [step.scale for step in history], decayed.fc.bias.abs().max().item()
        ([0.5, 0.0], 0.0)

    Source: Grabska-Barwinska (2020), appendix C.
    """
    check_eval(model)
    given = {"steps": steps, "updates_per_step": updates_per_step, "checkpoint_every": checkpoint_every, "seed": seed}
    given["steps_at_zero"] = steps_at_zero
    steps, updates_per_step, checkpoint_every, seed, steps_at_zero = (_whole(*pair) for pair in given.items())
    if not isinstance(schedule, str) or schedule not in SCHEDULES:
        raise InvalidValueError(unknown_name("schedule", schedule, SCHEDULES))
    lr, temperature = _positive("lr", lr), _positive("temperature", temperature)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and getattr(dataloader, "persistent_workers", False):
        raise InvalidValueError(
            "dataloader has persistent_workers, whose random state goes on from pass to pass, so that a checkpoint "
            "could not be continued exactly; expected persistent_workers=False"
        )
    check_loader(dataloader)
    run = _Decay(model, dataloader, lr, temperature)
    settings: dict[str, Any] = {
        "steps": steps,
        "updates_per_step": updates_per_step,
        "lr": lr,
        "temperature": temperature,
        "seed": seed,
        "schedule": schedule,
        "steps_at_zero": steps_at_zero,
    }
    last = steps + steps_at_zero
    with Undo() as undo, undo, seeded(seed):
        keep_modes(undo)
        for generator in _generators(dataloader):
            undo.callback(generator.set_state, generator.get_state())
        if path is not None:
            settings["network"] = _digest(model)
            _resume(path, settings, run)
        done = len(run.history)
        batches = run.batches(seed)
        bar = tqdm(range(done + 1, last + 1), desc="Decaying biases", initial=done, total=last, unit="step",
                   disable=None if show_progress else True)  # fmt: skip
        for step in bar:
            chosen = [next(batches) for _ in range(updates_per_step)]
            run.history.append(run.step(step, SCHEDULES[schedule](step / steps), chosen))
            bar.set_postfix(loss=f"{run.history[-1].loss:.4g}")
            if path is not None and (step % checkpoint_every == 0 or step == last):
                _save(path, settings, run)
    return DecayedBiases(run.finished(), run.history)


def _linear(share: float) -> float:
    return max(0.0, 1 - share)


def _exponential(share: float) -> float:
    return _SMALLEST**share if share < 1 else 0.0


SCHEDULES: dict[str, Callable[[float], float]] = {"linear": _linear, "exponential": _exponential}


class _Decay:
    """Holds the network on its way, with its optimiser and history."""

    def __init__(self, model: nn.Module, dataloader: Iterable[Any], lr: float, temperature: float) -> None:
        self.original, self.dataloader, self.temperature = model, dataloader, temperature
        self.biases = {name: t.detach().clone() for name, t in bias_tensors(model).items()}
        if not self.biases:
            raise InvalidValueError(f"the model ({type(model).__name__}) has no biases; expected one with some")
        if torch.is_inference_mode_enabled():
            raise InvalidValueError(
                "torch.inference_mode is on, where nothing can be learned; expected a call outside of it"
            )
        self.network = copied(model)
        kept = [*bias_tensors(self.network).values(), *batch_norm_scales(self.network)]
        self.weights = [p for p in self.network.parameters() if not any(p is t for t in kept)]
        self.weights = [p for p in self.weights if p.is_floating_point()]
        low = next((p.dtype for p in self.weights if p.dtype in (torch.float16, torch.bfloat16)), None)
        if low is not None:
            raise InvalidValueError(f"the model is in {low}, where small steps vanish; expected model.float()")
        for p in self.network.parameters():
            p.requires_grad_(any(p is w for w in self.weights))
        self.optimizer = torch.optim.Adam(self.weights, lr=lr)
        self.history: list[DecayStep] = []
        self.epoch, self.position, self.first = 0, 0, ""  # of the next batch; a digest of the pass's first batch

    def step(self, step: int, scale: float, chosen: Sequence[Batch]) -> DecayStep:
        """Scales the biases, then moves the weights once for each batch."""
        with torch.no_grad():
            for name, t in bias_tensors(self.network).items():
                t.copy_(self.biases[name] * scale)
        found = torch.cat([self._update(*batch) for batch in chosen], 1).nanmean(1).tolist()
        if not all(bool(p.isfinite().all()) for p in self.weights):
            raise InvalidValueError(f"the weights are no longer finite after step {step}; expected a lower lr")
        return DecayStep(step, scale, *found)

    def _update(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Returns one step of Adam; loss (the batch's), same decision and hit of each image."""
        with torch.no_grad():
            wanted = outputs_of(self.original, x)
        with torch.enable_grad():
            output = outputs_of(self.network, x)
            loss = distillation_loss(output, wanted, self.temperature)
            if not loss.isfinite():
                raise InvalidValueError(
                    f"the loss is {loss.item()} at step {len(self.history) + 1}; expected a finite one: lower lr, or "
                    "look for inputs that are no numbers"
                )
            if not loss.requires_grad:
                raise InvalidValueError("no weight of the model changes its outputs; expected a model that can learn")
            gradients = torch.autograd.grad(loss, self.weights, allow_unused=True)
        for p, g in zip(self.weights, gradients):
            p.grad = g
        self.optimizer.step()
        self.optimizer.zero_grad()
        output = output.detach()
        values = loss.detach().expand(len(x)), same_decision(wanted, output), hits(output, labels, 1)
        return torch.stack([v.double().cpu() for v in values])

    def batches(self, seed: int) -> Iterator[Batch]:
        """Yields batches without end, from where the run is: those of the pass that are done are passed over."""
        while True:
            seed_all(seed + self.epoch)
            for generator in _generators(self.dataloader):
                generator.manual_seed(seed + self.epoch)
            seen, done = 0, self.position
            for batch in self.dataloader:
                x, labels = as_batch(batch, self.original)
                if seen == 0:
                    self._check_first(_digest_of([x]))
                seen += 1
                if seen > done:
                    self.position = seen
                    yield x, labels
            if not seen:
                again = "; expected one that can be gone through again" if self.epoch else "; expected at least one"
                raise InvalidValueError(f"dataloader gives no batch{again}")
            self.epoch, self.position, self.first = self.epoch + 1, 0, ""

    def _check_first(self, digest: str) -> None:
        if self.first not in ("", digest):
            raise InvalidValueError(
                "checkpoint is of other data: the pass that it is in began with another batch; expected the same data "
                "loader, or no such file"
            )
        self.first = digest

    def finished(self) -> nn.Module:
        """Returns the network, with the original's flags."""
        for p, original in zip(self.network.parameters(), self.original.parameters()):
            p.requires_grad_(original.requires_grad)
            p.grad = None
        return self.network


def distillation_loss(output: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Returns temperature squared times the mean divergence between softened outputs."""
    first, second = F.log_softmax(output / temperature, 1), F.log_softmax(wanted / temperature, 1)
    return temperature**2 * F.kl_div(first, second, reduction="batchmean", log_target=True)


def plot_decay(history: Sequence[DecayStep]) -> Figure:
    """Returns the scale of the biases, the loss and the decisions over the steps: `figure.savefig(path)`.

    Example:
        >>> from captum_extract_aggregate.bias_study import DecayStep, plot_decay
        >>> plot_decay([DecayStep(1, 0.5, 0.2, 1.0, 0.9), DecayStep(2, 0.0, 0.1, 0.9, 0.9)]).savefig("/dev/null")
    """
    from captum_extract_aggregate._common.notebook_figure import NotebookFigure

    figure = NotebookFigure(figsize=(9, 3.4), layout="constrained")
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
        "pass": [run.epoch, run.position, run.first],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        torch.save(content, new)
        os.replace(new, path)  # at any instant the file is the old one or the new one
    finally:
        new.unlink(missing_ok=True)


def _resume(path: Path, settings: dict[str, Any], run: _Decay) -> None:
    """Puts the run where the checkpoint left it."""
    if not path.exists():
        return
    cure = "expected one that decay_biases wrote: delete it, or name another"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file raises
        raise InvalidValueError(f"checkpoint {str(path)!r} cannot be read ({type(error).__name__}); {cure}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InvalidValueError(f"checkpoint {str(path)!r} holds something else; {cure}")
    other = [name for name, value in settings.items() if content["settings"].get(name) != value]
    if other:
        raise InvalidValueError(f"checkpoint {str(path)!r} is of another {other[0]}; {cure}")
    run.network.load_state_dict(content["network"])
    run.optimizer.load_state_dict(content["optimizer"])
    run.history = [DecayStep(**step) for step in content["history"]]
    run.epoch, run.position, run.first = content["pass"]


def _digest(model: nn.Module) -> str:
    """Returns a digest of the network's layers and numbers."""
    state = {name: t for name, t in model.state_dict().items() if isinstance(t, Tensor)}
    return hashlib.sha256(f"{model} {list(state)} {_digest_of(state.values())}".encode()).hexdigest()


def _digest_of(tensors: Iterable[Tensor]) -> str:
    found = hashlib.sha256()
    for t in tensors:
        found.update(f"{t.dtype} {tuple(t.shape)}".encode())
        found.update(t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _generators(dataloader: Any) -> list[torch.Generator]:
    """Returns the data loader's own random generators."""
    sampler, batch_sampler = (getattr(dataloader, name, None) for name in ("sampler", "batch_sampler"))
    holders = (dataloader, sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return [generator for generator in dict.fromkeys(found) if isinstance(generator, torch.Generator)]


def _whole(name: str, value: Any) -> int:
    lowest = 0 if name in ("seed", "steps_at_zero") else 1
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if not lowest <= number < 2**62:
        raise InvalidValueError(f"{name} is {value!r}; expected a whole number from {lowest}")
    return number


def _positive(name: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or not (value > 0 and math.isfinite(value)):
        raise InvalidValueError(f"{name} is {value!r}; expected a positive number")
    return float(value)
