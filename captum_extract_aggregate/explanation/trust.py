"""Can the maps of one picture be trusted? Three questions, each beside what a map of chance gets.

One picture decides little: it finds maps that are certainly not what they seem, and never proves one right. Over many
pictures `captum_extract_aggregate.evaluation` asks the same, with significance tests.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from captum_extract_aggregate._common.tensors import upsample
from captum_extract_aggregate.explanation.maps import maps_of
from captum_extract_aggregate.metrics import null_baseline, pixel_removal, spearman
from captum_extract_aggregate.metrics.pixel_removal import Removal
from captum_extract_aggregate.metrics.randomization import randomization_stages, randomization_states, randomized

if TYPE_CHECKING:
    from captum_extract_aggregate.explanation.explanation import Explanation

_STEPS = 16  # in which all pixels are removed
_RANDOM_MAPS = 8
_HELD = 0.5  # a similarity from which a map is called the same
_UNCHANGED = "The decision did not change, whatever was removed: removal says nothing here."


@dataclass(frozen=True)
class Question:
    """Holds what one map, at its method and layer, got.

    Attributes:
        method, layer: which map.
        classes: rank correlation with the map of the class with the lowest score; near 1 it does not depend on the
            class.
        learned: rank correlation with the map of the network whose layers are all initialised anew; near 1 it does not
            depend on what was learned.
        kept: share of the signal that can be removed, least salient pixels first, before the decision flips, minus the
            same for random maps of this resolution; above 0 is better than chance. NaN where the decision never flips,
            in whatever order pixels go: then removal tells nothing.
    """

    method: str
    layer: str
    classes: float
    learned: float
    kept: float


@dataclass(frozen=True)
class Trust:
    """Holds the answers for all maps; `print` shows them.

    Attributes:
        answers: one for each map.
        null: rank correlation of unrelated maps of the coarsest resolution: mean and standard deviation.
        chance: standard deviation of `kept` over random maps; NaN where the decision flips with none of them.
    """

    answers: tuple[Question, ...]
    null: tuple[float, float]
    chance: float

    @property
    def sentence(self) -> str:
        """What follows for this picture, in words."""
        lines = [
            self._told([a.classes for a in self.answers], "on the class here", "for another class"),
            self._told([a.learned for a in self.answers], "on what was learned", "on a random network"),
            *([_UNCHANGED] if all(math.isnan(a.kept) for a in self.answers) else []),
            "One picture proves no map right: ask over many (captum-extract-aggregate evaluate).",
        ]
        return " ".join(lines)

    def _told(self, similarities: list[float], on: str, other: str) -> str:
        """Returns which maps look the same elsewhere; a flat one says nothing for or against."""
        alike = [_called(a) for a, s in zip(self.answers, similarities) if s > _HELD]
        flat = [_called(a) for a, s in zip(self.answers, similarities) if math.isnan(s)]
        if len(flat) == len(self.answers):
            return f"Of how maps look {other} nothing can be told: one of each two is flat."
        told = f"Hardly depend {on}: {', '.join(alike)}" if alike else f"None looks the same {other}"
        return told + (f" (flat, which says nothing: {', '.join(flat)})." if flat else ".")

    def __str__(self) -> str:
        width = max(len(_called(a)) for a in self.answers)
        lines = [f"{'':{width}}  other class  random network  removal over chance"]
        lines += [
            f"{_called(a):{width}}  {_number(a.classes):>11}  {_number(a.learned):>14}"
            f"  {_change(a.kept, '{:+.2f}'):>19}"
            for a in self.answers
        ]
        null = f"{self.null[0]:.2f} ± {self.null[1]:.2f}"
        chance = _change(self.chance, "0.00 ± {:.2f}")
        lines.append(f"{'maps of chance':{width}}  {null:>11}  {null:>14}  {chance:>19}")
        return "\n".join([*lines, self.sentence])


def trust(found: Explanation, seed: int = 0, report: Callable[[int, int, str], None] | None = None) -> Trust:
    """Returns the answers for the maps of an explanation; `report` hears of each step: which, of how many, and what."""
    tell = report or (lambda done, of, what: None)
    size = (found.x.shape[2], found.x.shape[3])
    tell(0, 4, "maps of two classes")
    maps = _flat(found.maps_of(found.target), size)
    lowest = int(found.scores.argmin())
    other = _flat(found.maps_of(lowest if lowest != found.target else int(found.scores.argmax())), size)
    tell(1, 4, "maps of a random network")
    anew = _flat(_on_a_random_network(found, seed), size)
    coarsest = min((m.shape[1:] for own in found.maps.values() for m in own.values()), key=math.prod)
    null = null_baseline("spearman", tuple(coarsest), size, seed=seed)
    tell(2, 4, "removal by maps of chance")
    chance = _removed(found, _random_maps(tuple(coarsest), size, seed))
    tell(3, 4, "removal by the maps")
    removed = _removed(found, torch.stack(list(maps.values())))
    by_chance = bool(chance.flipped.any())
    kept = [
        float(e - chance.e.mean()) if by_chance or flipped else math.nan
        for e, flipped in zip(removed.e, removed.flipped)
    ]
    answers = [
        Question(*key, _alike(m, other[key]), _alike(m, anew[key]), own) for (key, m), own in zip(maps.items(), kept)
    ]
    return Trust(tuple(answers), (null.mean, null.std), float(chance.e.std()) if by_chance else math.nan)


def _called(answer: Question) -> str:
    return f"{answer.method} at {answer.layer}"


def _number(value: float) -> str:
    """Returns a similarity in two decimals, or that there is none: one of the maps is the same everywhere."""
    return "one is flat" if math.isnan(value) else f"{value:.2f}"


def _change(value: float, shown: str) -> str:
    """Returns what removal says in two decimals, or that the decision did not change."""
    return "no change" if math.isnan(value) else shown.format(value)


def _flat(maps: dict[str, dict[str, Tensor]], size: tuple[int, int]) -> dict[tuple[str, str], Tensor]:
    """Returns each map, channels summed, at the input's size: `1 x H x W`."""
    return {
        (method, layer): upsample(m.detach().sum(0, keepdim=True)[None], size)[0]
        for method, own in maps.items()
        for layer, m in own.items()
    }


def _alike(a: Tensor, b: Tensor) -> float:
    return float(spearman(a[None], b[None]))


def _on_a_random_network(found: Explanation, seed: int) -> dict[str, dict[str, Tensor]]:
    """Returns the maps on the network with all of its layers initialised anew; the network comes back as it was."""
    stages = randomization_stages(found.model, None, (found.x,), ())
    at_once = randomization_states("at_once", 1, len(stages))
    with contextlib.closing(randomized(found.model, stages, at_once, "reset", seed)) as states:
        next(states)
        return maps_of(found.methods, found.x, [found.target])[0]


def _random_maps(shape: tuple[int, ...], size: tuple[int, int], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return upsample(torch.rand(_RANDOM_MAPS, 1, *shape, generator=generator), size)


def _removed(found: Explanation, maps: Tensor) -> Removal:
    """Returns for each map, `M x 1 x H x W`, what can be removed before the decision flips."""
    x = found.x.expand(len(maps), -1, -1, -1)
    step = max(1, math.ceil(maps[0].numel() / _STEPS))
    return pixel_removal(found.model, x, maps, order="least", step=step)
