"""The page of class_competition.py's numbers: docs/class_competition_study.md, and its picture.

python benchmarks/class_competition_page.py FOLDER
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from class_competition import LAYERS, METHODS
from class_competition_pictures import network

import captum_extract_aggregate as cea
from captum_extract_aggregate.metrics import compare
from captum_extract_aggregate.metrics.significance import Comparison, holm
from captum_extract_aggregate.visualization import grid

matplotlib.use("Agg")

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
LEVEL = 0.05
Cells = dict[str, np.ndarray]  # type: ignore[type-arg]  # method|layer|variant: a number for each picture


@dataclass(frozen=True)
class Measure:
    """One measure: what it is called, and whether more is better, and whether its sign counts."""

    key: str
    title: str
    better: int
    magnitude: bool = False
    chance: str = ""


ALIKE = "Rank correlation (magnitude)"
MEASURES = (
    Measure("grid", "Grid pointing: share of the positive mass in the right cell", 1, chance="0.25"),
    Measure("mass", "Share of the positive mass on the object", 1),
    Measure("mass (several classes)", "The same, pictures with several classes", 1),
    Measure("pointing", "Pointing game: maximum on the object", 1),
    Measure("pointing (several classes)", "The same, pictures with several classes", 1),
    Measure("sensitivity", f"{ALIKE} of the highest and the lowest class's maps", -1, True),
    Measure("removal", "Removal contrast", 1, chance="0"),
    Measure("randomisation (head)", f"{ALIKE} with the map before the head was randomised", -1, True),
    Measure("randomisation (all)", f"{ALIKE} with the map before nearly everything was randomised", -1, True),
)


@dataclass(frozen=True)
class Statement:
    """That one variant is better than another by a measure, on every network."""

    text: str
    measure: str
    first: str = "normalized"
    second: str = "plain"
    kept: bool = False  # whether it is about which maps are not 0 everywhere, instead of the measure


VARIANTS = {
    "plain": "plain",
    "normalized": "competing, `normalize=True`",
    "literal": "competing, `normalize=False`",
    "control": "plain, cut",
    "given": "competing with the four cells' classes",
}


# --- Numbers ----------------------------------------------------------------------------------------------------------


def read(folder: Path) -> dict[str, dict[str, Cells]]:
    """Returns the numbers by measure, then by network."""
    found: dict[str, dict[str, Cells]] = {}
    for name in LAYERS:
        for file in sorted(folder.glob(f"*-{name.replace(' ', '-')}.json")):
            for measure, cells in json.loads(file.read_text()).items():
                found.setdefault(measure, {})[name] = {k: np.array(v, dtype=float) for k, v in cells.items()}
    return found


def side(measure: Measure, cells: Cells, variant: str, of: str = "") -> np.ndarray:  # type: ignore[type-arg]
    """Returns a variant's numbers, methods at layers x pictures; NaN where a map has nothing."""
    keys = [k for k in cells if k.endswith(f"|{variant}") and k.startswith(of)]
    values = np.stack([cells[k] for k in keys])
    return np.abs(values) if measure.magnitude else values


def differences(measure: Measure, cells: Cells, s: Statement) -> np.ndarray:  # type: ignore[type-arg]
    """Returns by how much the first is better, for each picture: the mean over methods and layers where both are."""
    first, second = (side(measure, cells, variant) for variant in (s.first, s.second))
    if s.kept:
        return (np.isnan(second).astype(float) - np.isnan(first)).mean(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return measure.better * np.nanmean(first - second, axis=0)


def tested(values: np.ndarray) -> Comparison | None:  # type: ignore[type-arg]
    """Compares differences with 0; None where none is defined."""
    return None if np.isnan(values).all() else compare(values, np.zeros_like(values))


def stars(p: float) -> str:
    return "" if not p < LEVEL else "*"


# --- Statements -------------------------------------------------------------------------------------------------------


STATEMENTS = (
    Statement("more of the mass is in the right cell than in the plain map", "grid"),
    Statement("... and than in the plain map cut to as few positions", "grid", second="control"),
    Statement("more of the mass is on the object than in the plain map", "mass"),
    Statement("... in pictures with several classes", "mass (several classes)"),
    Statement("... there, than in the plain map cut to as few positions", "mass (several classes)", second="control"),
    Statement("the maximum is on the object more often", "pointing"),
    Statement("... in pictures with several classes", "pointing (several classes)"),
    Statement("maps of two classes are less alike", "sensitivity"),
    Statement("... than plain maps cut to as few positions", "sensitivity", second="control"),
    Statement("the order of the positions says more of the decision (removal contrast)", "removal"),
    Statement("less of the map survives another head", "randomisation (head)"),
    Statement("... than of plain maps cut to as few positions", "randomisation (head)", second="control"),
    Statement("less of the map survives other parameters nearly everywhere", "randomisation (all)"),
    Statement("... than of plain maps cut to as few positions", "randomisation (all)", second="control"),
    Statement("more of the mass is in the right cell than with `normalize=False`", "grid", second="literal"),
    Statement("more of the mass is on the object than with `normalize=False`", "mass", second="literal"),
    Statement("fewer maps are 0 everywhere than with `normalize=False`: cells", "grid", second="literal", kept=True),
    Statement("fewer maps are 0 everywhere than with `normalize=False`: objects", "mass", second="literal", kept=True),
)


def verdict(tests: list[Comparison], corrected: list[float]) -> str:
    """Says what several networks say together."""
    if not tests:
        return "not measured"
    better = sum(c.mean > 0 and p < LEVEL for c, p in zip(tests, corrected))
    worse = sum(c.mean < 0 and p < LEVEL for c, p in zip(tests, corrected))
    if better == len(tests):
        return "**holds**"
    if worse and not better:
        return "**does not hold**"
    return f"cannot be told ({better} of {len(tests)})"


def statements(numbers: dict[str, dict[str, Cells]]) -> Iterator[str]:
    yield "| competing, with `normalize=True` ... | here | better by, network by network | n |"
    yield "|---|---|---|---|"
    by_key = {m.key: m for m in MEASURES}
    for s in STATEMENTS:
        of = numbers.get(s.measure, {}).items()
        found = {name: tested(differences(by_key[s.measure], c, s)) for name, c in of}
        tests = {name: c for name, c in found.items() if c is not None}
        corrected = holm([c.p for c in tests.values()])
        told = ", ".join(f"{n} {c.mean:+.2f}{stars(p)}" for (n, c), p in zip(tests.items(), corrected))
        counts = ", ".join(str(c.n) for c in tests.values())
        yield f"| {s.text} | {verdict(list(tests.values()), corrected)} | {told} | {counts} |"


# --- Tables -----------------------------------------------------------------------------------------------------------


def summary(numbers: dict[str, dict[str, Cells]], measure: Measure) -> Iterator[str]:
    """Each network's means over methods, layers and pictures, with the spread over pictures."""
    variants = [v for v in VARIANTS if any(k.endswith(f"|{v}") for c in numbers[measure.key].values() for k in c)]
    yield f"| {measure.title} | n | nothing known | " + " | ".join(VARIANTS[v] for v in variants) + " |"
    yield "|---" * (len(variants) + 3) + "|"
    for name, cells in numbers[measure.key].items():
        n = len(next(iter(cells.values())))
        shown = [mean_sd(side(measure, cells, v)) for v in variants]
        yield f"| {name} | {n} | {nothing(numbers, measure, name)} | {' | '.join(shown)} |"


def nothing(numbers: dict[str, dict[str, Cells]], measure: Measure, name: str) -> str:
    """Returns what a map without any knowledge has."""
    if "null" in numbers[measure.key][name]:
        return f"{np.nanmean(numbers[measure.key][name]['null']):.2f}"
    if measure.magnitude:  # of unrelated maps of a layer's resolution, whose correlation has this spread around 0
        spreads = [null[1] for null in numbers.get("null", {}).get(name, {}).values()]
        return f"{math.sqrt(2 / math.pi) * float(np.mean(spreads)):.2f}" if spreads else ""
    return measure.chance


def mean_sd(values: np.ndarray) -> str:  # type: ignore[type-arg]
    """Returns mean ± standard deviation over pictures of the mean over methods and layers; and how many maps had
    nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        of_pictures = np.nanmean(values, axis=0)
    undefined = int(np.isnan(values).sum())
    told = f" ({100 * undefined / values.size:.0f} % nothing)" if undefined else ""
    if np.isnan(of_pictures).all():
        return f"undefined{told}"
    return f"{np.nanmean(of_pictures):.2f} ± {np.nanstd(of_pictures, ddof=1):.2f}{told}"


def details(numbers: dict[str, dict[str, Cells]], measure: Measure) -> Iterator[str]:
    """Each method at each layer: plain, and competing (normalised), with Holm's correction over the table."""
    rows = [(n, layer) for n in numbers[measure.key] for layer in LAYERS[n]]
    cells: dict[tuple[str, str, str], tuple[str, Comparison | None]] = {}
    for name, layer in rows:
        for method in METHODS:
            of, key = numbers[measure.key][name], f"{method}|{layer}|"
            if f"{key}plain" not in of:
                continue
            plain, competing = (side(measure, of, v, key)[0] for v in ("plain", "normalized"))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                text = " → ".join(f"{np.nanmean(v):.2f}".replace("nan", "nothing") for v in (plain, competing))
            cells[name, layer, method] = text, tested(measure.better * (competing - plain))
    corrected = dict(zip(cells, holm([math.nan if c is None else c.p for _, c in cells.values()])))
    yield "| network | layer | " + " | ".join(METHODS) + " |\n" + "|---" * (len(METHODS) + 2) + "|"
    for name, layer in rows:
        shown = []
        for method in METHODS:
            text, test = cells.get((name, layer, method), ("", None))
            p = corrected.get((name, layer, method), math.nan)
            mark = "" if test is None or not p < LEVEL else " better" if test.mean > 0 else " worse"
            shown.append(text + mark)
        yield f"| {name} | {layer.split('.')[-1]} | {' | '.join(shown)} |"


# --- Picture ----------------------------------------------------------------------------------------------------------


def four_pictures() -> tuple[torch.Tensor, list[int]]:
    """Returns a grid of scikit-image's cat, rocket, astronaut and cup, all free to use, and classes of ImageNet."""
    cells = []
    for pixels, left in (
        (skimage.data.chelsea(), 80),
        (skimage.data.rocket(), 100),
        (skimage.data.astronaut(), 0),
        (skimage.data.coffee(), 100),
    ):
        side = min(pixels.shape[:2])
        part = torch.tensor(pixels[:side, left : left + side]).permute(2, 0, 1)[None].float() / 255
        cells.append(F.interpolate(part, (112, 112), mode="bilinear", antialias=True).clamp(0, 1)[0])
    upper, lower = torch.cat(cells[:2], 2), torch.cat(cells[2:], 2)
    return torch.cat([upper, lower], 1), [285, 812, 652, 967]


def draw(path: Path) -> None:
    """A grid of four pictures: plain maps and competing ones of two of its cells."""
    name, layer = "EfficientNet-Lite0", LAYERS["EfficientNet-Lite0"][0]
    picture, classes = four_pictures()
    x = (picture[None] - 0.5) / 0.5
    kinds = {"NormGrad": cea.NormGrad, "linear approximation": cea.LinearApproximation, "GradCAM": cea.GradCAM}
    rows = {}
    for label, kind in kinds.items():
        plain = kind(network(name), layer)
        columns = {}
        for corner, cell in (("upper left", 0), ("lower right", 3)):
            for how, method in (("plain", plain), ("competing", cea.ClassCompetition(plain, normalize=True))):
                columns[f"{corner}, {how}"] = method.attribute(x, target=classes[cell])[0].clamp(min=0)
        rows[label] = columns
    grid(picture, rows, f"{name}, {layer}: positive parts").savefig(path, dpi=70)


def main(folder: Path) -> None:
    """Writes the page and its picture."""
    numbers = read(folder)
    lines = [(HERE / "class_competition_text.md").read_text(encoding="utf-8").rstrip(), ""]
    lines += ["## Statements", "", *statements(numbers), "", "## Networks", ""]
    known = [m for m in MEASURES if m.key in numbers]
    for measure in known:
        lines += [*summary(numbers, measure), ""]
    lines += ["## Methods and layers", "", "<details><summary>Every method at every layer</summary>", ""]
    for measure in known:
        lines += [f"{measure.title}; plain → competing (`normalize=True`):", "", *details(numbers, measure), ""]
    lines += ["</details>", "", "Made by `python benchmarks/class_competition.py` and `class_competition_page.py`."]
    (DOCS / "class_competition_study.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(DOCS / "class_competition_study.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    warnings.simplefilter("ignore")
    main(parser.parse_args().folder)
