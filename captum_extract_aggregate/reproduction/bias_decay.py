"""Biases decayed, and what explains the network before and after: Grabska-Barwinska (2020), Fig. 4, appendices C, D."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from captum_extract_aggregate._common.tensors import upsample
from captum_extract_aggregate.attr import ActivityAttribution, BiasAttribution
from captum_extract_aggregate.bias_study import DecayedBiases, bias_report, decay_biases, plot_decay, remove_biases
from captum_extract_aggregate.data.train_scenes import load_scenes
from captum_extract_aggregate.metrics import removal_contrast
from captum_extract_aggregate.reproduction.biases import percent, reports_table
from captum_extract_aggregate.reproduction.charts import Tile, boxes, tiles
from captum_extract_aggregate.reproduction.findings import (
    Finding,
    Key,
    Outcome,
    markdown,
    mean_at_least,
    mean_sd,
    smaller,
)
from captum_extract_aggregate.reproduction.setting import Setting

LINEAR = 1e-4  # relative; what float32 leaves of an exact sum
_NEEDS_DATA = "decaying takes the network's own training data"
_NETWORKS = ("with biases", "decayed")


@dataclass(frozen=True)
class Decay:
    """Holds how biases are decayed: as published, or in a quick variant, which says that it is one."""

    steps: int = 200
    updates: int = 200
    batch: int = 64
    at_zero: int = 20  # published is that there are some
    lr: float = 5e-6
    scenes: int = 6000

    def __str__(self) -> str:
        return (
            f"{self.steps} decay steps of {self.updates} updates of batch {self.batch}, then {self.at_zero} steps at "
            f"zero, Adam at {self.lr:g}"
        )


PUBLISHED = Decay()
QUICK = Decay(6, 2, 16, 1, 1e-3, 64)


def schedule_of(setting: Setting) -> Decay:
    """Returns how a setting's biases are decayed."""
    return QUICK if setting.is_quick else PUBLISHED


def _note(setting: Setting) -> str:
    if setting.is_quick:
        return f"A quick variant, which is not the published decay: {QUICK}."
    return f"As published: {PUBLISHED}; batch normalisation's scales and variances constant."


def decayed(setting: Setting, schedule: str = "linear", steps: int = 0) -> DecayedBiases:
    """Returns a setting's network after its biases have decayed; an interrupted decay goes on from its checkpoint."""
    how = schedule_of(setting)
    steps = steps or how.steps
    name = f"decay-{schedule}-{steps}x{how.updates}x{how.batch}-{setting.name}"

    def make() -> DecayedBiases:
        images, classes = load_scenes(how.scenes, 1, "train", setting.show_progress)
        loader = DataLoader(TensorDataset(images, classes), how.batch, shuffle=True)
        return decay_biases(
            setting.network, loader, steps, how.updates, how.lr, checkpoint=setting.folder / f"{name}.pt",
            show_progress=setting.show_progress, schedule=schedule, steps_at_zero=how.at_zero,  # type: ignore[arg-type]
        )  # fmt: skip

    return setting.once(name, make)


def _needs_training_data(run: Callable[[Setting], Outcome]) -> Callable[[Setting], Outcome]:
    """Makes an experiment say where its network cannot be trained further."""

    def checked(setting: Setting) -> Outcome:
        if setting.model.name.startswith("scene-"):
            return run(setting)
        title = (run.__doc__ or "").strip().splitlines()[0]
        return Outcome(findings=[Finding(title, None, effect=_NEEDS_DATA)])

    checked.__doc__, checked.__name__, checked.__module__ = run.__doc__, run.__name__, run.__module__
    return checked


@_needs_training_data
def fig4(setting: Setting) -> Outcome:
    """Activity attributions of one picture at every layer, with their sums, before and after the biases' decay."""
    layers = [cut.layer for cut in setting.shown_cuts]
    x = setting.first.x[None]
    target, picture = setting.best(x), setting.picture(x[0])
    networks = {"with biases": setting.network, "decayed": decayed(setting).model}
    rows, sums, scores = {}, {}, {}
    for name, network in networks.items():
        maps = ActivityAttribution(network, layers).attribute(x, target=target)
        sums[name] = [float(m.double().sum()) for m in maps]
        with torch.no_grad():
            scores[name] = float(network(x)[0, target])
        titles = [f"{layer}: {total:.2f}" for layer, total in zip(layers, sums[name])]
        rows[f"{name} ({scores[name]:.2f})"] = [Tile(t, picture, m[0]) for t, m in zip(titles, maps)]
    path = setting.folder / f"g20-fig4-{setting.name}.png"
    tiles(path, rows, f"{setting.name}: activities, with their sums")
    gaps = {
        name: max(abs(total - scores[name]) / max(1e-12, abs(scores[name])) for total in own)
        for name, own in sums.items()
    }
    complete = "without biases the activities of every layer add up to the score"
    effect = f"largest relative gap {gaps['decayed']:.1e}; with biases {gaps['with biases']:.1e}"
    table = markdown(
        ["sum of activities", *layers, "score"],
        [[name, *(f"{v:.2f}" for v in own), f"{scores[name]:.2f}"] for name, own in sums.items()],
    )
    findings = [Finding(complete, gaps["decayed"] < LINEAR, 1, effect)]
    return Outcome([_note(setting), table], findings, [path])


@_needs_training_data
def fig_s6(setting: Setting) -> Outcome:
    """Biases decayed linearly and exponentially: the profile, and decisions beside those of removal at once."""
    n, show = setting.sizes["maps"] * (1 if setting.is_quick else 3), setting.show_progress
    reports = {"removed at once": bias_report(setting.network, setting.batches(n), show_progress=show)}
    pictures = []
    for schedule in ("linear", "exponential"):
        model, history = decayed(setting, schedule)
        reports[f"decayed, {schedule}"] = bias_report(setting.network, setting.batches(n), model, show_progress=show)
        pictures.append(setting.folder / f"g20-fig-s6-{schedule}-{setting.name}.png")
        plot_decay(history).savefig(pictures[-1], dpi=80)
    removed = _keyed(reports["removed at once"].same_decision)
    findings = []
    for name, report in reports.items():
        if name != "removed at once":
            own = report.same_decision
            statement = f"{name}: the network keeps more decisions than when its biases are removed at once"
            findings.append(smaller(statement, _keyed(own), removed, False, True))
            findings.append(mean_at_least(f"{name}: the network keeps 99 % of its decisions", own.tolist(), 0.99))
    return Outcome([_note(setting), reports_table(reports)], findings, pictures)


@_needs_training_data
def fig_s7(setting: Setting) -> Outcome:
    """Biases decayed linearly in fewer steps, of as many updates each: what the network gives afterwards."""
    how = schedule_of(setting)
    few = (2, how.steps) if setting.is_quick else (10, 50, how.steps)
    n, show = setting.sizes["maps"] * (1 if setting.is_quick else 3), setting.show_progress
    same, rows = {}, []
    for steps in few:
        model, history = decayed(setting, "linear", steps)
        same[steps] = bias_report(setting.network, setting.batches(n), model, show_progress=show).same_decision
        at_zero = next(step for step in history if step.scale == 0)
        rows.append([str(steps), f"{at_zero.loss:.3g}", f"{history[-1].loss:.3g}", percent(same[steps])])
    header = ["decay steps", "loss when the biases reach zero", "loss at the end", "same decision"]
    findings = [
        smaller(
            f"{few[-1]} decay steps keep more decisions than {steps}", _keyed(same[few[-1]]), _keyed(of), False, True
        )
        for steps, of in same.items()
        if steps != few[-1]
    ]
    return Outcome([_note(setting), markdown(header, rows)], findings)


@_needs_training_data
def fig_s8(setting: Setting) -> Outcome:
    """Pearson's correlation at every layer: activities with biases, and with those of networks without biases."""
    cuts = [cut for cut in setting.shown_cuts if cut.bias]
    networks = {"removed": remove_biases(setting.network), "decayed": decayed(setting).model}
    layers = [cut.layer for cut in cuts]
    biases = BiasAttribution(setting.network, [cut.bias for cut in cuts])
    own = ActivityAttribution(setting.network, layers)
    others = {name: ActivityAttribution(network, layers) for name, network in networks.items()}
    found: dict[str, list[list[float]]] = {name: [[] for _ in cuts] for name in ("biases", *others)}
    for x, _ in setting.batches(setting.sizes["removal"], 8):
        target = setting.best(x)
        maps = own.attribute(x, target=target)
        compared = {"biases": biases.attribute(x, target=target)}
        compared |= {name: method.attribute(x, target=target) for name, method in others.items()}
        for name, theirs in compared.items():
            for i, (a, b) in enumerate(zip(maps, theirs)):
                found[name][i] += pearson(a, b).tolist()
    groups = {f"{layer}, {name}": [v for v in of[i] if v == v] for name, of in found.items()
              for i, layer in enumerate(layers)}  # fmt: skip
    path = setting.folder / f"g20-fig-s8-{setting.name}.png"
    boxes(path, groups, f"{setting.name}: Pearson's correlation with the activities")
    rows = [[layer, *(mean_sd(of[i]) for of in found.values())] for i, layer in enumerate(layers)]
    findings = [
        mean_at_least(
            f"activities hardly change without biases ({layer}, decayed): .95 or more", found["decayed"][i], 0.95
        )
        for i, layer in enumerate(layers)
    ]
    return Outcome([_note(setting), markdown(["layer", *found], rows)], findings, [path])


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Returns Pearson's correlation of maps of one size, `N`; NaN where one is constant.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.reproduction.bias_decay import pearson
        >>> a = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]])
        >>> round(float(pearson(a, -2 * a)), 6)
        -1.0
    """
    x, y = (v.double().flatten(1) - v.double().flatten(1).mean(1, keepdim=True) for v in (a, b))
    return (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))


Maps = Callable[[Tensor, Tensor], list[Tensor]]


def _delta_minus(setting: Setting, network: nn.Module, maps_of: Maps) -> Tensor:
    """Returns δe₋ of several maps of each image's best class: maps x images."""
    parts = []
    for x, _ in setting.batches(setting.sizes["stages" if setting.is_quick else "removal"], 8):
        if len(x) == 1:
            continue  # there is no other image to compare with
        with torch.no_grad():
            target = network(x).argmax(1)
        size = (x.shape[2], x.shape[3])
        found = [upsample(m, size) for m in maps_of(x, target)]
        deltas = [removal_contrast(network, x, m, step=setting.step).delta_minus.double() for m in found]
        parts.append(torch.stack(deltas))
    return torch.cat(parts, 1)


def _before_and_after(
    setting: Setting, name: str, names: Sequence[str], make: Callable[[nn.Module], Maps], better: str
) -> Outcome:
    """Measures maps by the network with its biases and by the one whose biases have decayed."""
    networks = dict(zip(_NETWORKS, (setting.network, decayed(setting).model)))
    found = {which: _delta_minus(setting, network, make(network)) for which, network in networks.items()}
    groups = {
        f"{label}, {which}": [v for v in values[i].tolist() if v == v]
        for i, label in enumerate(names)
        for which, values in found.items()
    }
    path = setting.folder / f"{name}-{setting.name}.png"
    boxes(path, groups, f"{setting.name}: δe₋")
    before, after = (found[which] for which in _NETWORKS)
    rows = [[label, mean_sd(before[i].tolist()), mean_sd(after[i].tolist())] for i, label in enumerate(names)]
    findings = [smaller(f"{better}, mean over the rows", _keyed(after.mean(0)), _keyed(before.mean(0)), False, True)]
    findings += [
        smaller(f"{better} ({label})", _keyed(after[i]), _keyed(before[i]), False, True)
        for i, label in enumerate(names)
    ]
    return Outcome([_note(setting), markdown(["δe₋", *_NETWORKS], rows)], findings, [path])


@_needs_training_data
def fig_s9(setting: Setting) -> Outcome:
    """Signed activity attributions at every layer, with biases and after their decay: δe₋."""
    return _single(setting, "g20-fig-s9", False)


@_needs_training_data
def fig_s11(setting: Setting) -> Outcome:
    """Unsigned activity attributions at every layer, with biases and after their decay: δe₋."""
    return _single(setting, "g20-fig-s11", True)


def _single(setting: Setting, name: str, unsigned: bool) -> Outcome:
    layers = [cut.layer for cut in setting.shown_cuts]

    def make(network: nn.Module) -> Maps:
        method = ActivityAttribution(network, layers)

        def maps_of(x: Tensor, target: Tensor) -> list[Tensor]:
            return [m.abs() if unsigned else m for m in method.attribute(x, target=target)]

        return maps_of

    what = "unsigned" if unsigned else "signed"
    return _before_and_after(setting, name, layers, make, f"δe₋: decayed biases improve {what} activities")


@_needs_training_data
def fig_s10(setting: Setting) -> Outcome:
    """Signed activity attributions averaged from each layer to the last, with biases and after their decay: δe₋."""
    layers = [cut.layer for cut in setting.shown_cuts]

    def make(network: nn.Module) -> Maps:
        method = ActivityAttribution(network, layers)

        def maps_of(x: Tensor, target: Tensor) -> list[Tensor]:
            size = (x.shape[2], x.shape[3])
            scaled = [upsample(_at_most_one(m), size) for m in method.attribute(x, target=target)]
            return [torch.stack(scaled[i:]).mean(0) for i in range(len(scaled))]

        return maps_of

    names = [f"from {layer} on" for layer in layers]
    return _before_and_after(setting, "g20-fig-s10", names, make, "δe₋: decayed biases improve aggregated signed maps")


def _at_most_one(map_: Tensor) -> Tensor:
    """Returns signed maps whose largest magnitude is 1, so that every layer counts alike."""
    largest = map_.flatten(1).abs().amax(1).reshape(-1, 1, 1, 1)
    return map_ / torch.where(largest > 0, largest, 1)


def _keyed(values: Tensor) -> dict[Key, float]:
    return {(i, 0): value for i, value in enumerate(values.tolist())}
