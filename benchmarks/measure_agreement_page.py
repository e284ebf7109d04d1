"""The page of measure_agreement.py's numbers: docs/measure_agreement.md, and its picture.

python benchmarks/measure_agreement_page.py FOLDER
"""

from __future__ import annotations

import argparse
import itertools
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from class_competition_page import stars, tested, verdict
from measure_agreement import LAYERS, NULLS
from scipy.stats import rankdata

from captum_extract_aggregate.metrics.significance import holm

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
Array = np.ndarray[Any, np.dtype[Any]]
BETTER = {  # measures, the kinds together: 1 where more is better
    "mass accuracy": 1,
    "rank accuracy": 1,
    "localisation AUC": 1,
    "pointing game": 1,
    "grid pointing": 1,
    "pixel removal": 1,
    "removal contrast": 1,
    "deletion": -1,
    "insertion": 1,
    "SRG": 1,
    "ROAD": -1,
    "class sensitivity": -1,
    "MPRT": -1,
    "eMPRT": 1,
    "sparseness": 1,
    "complexity": -1,
    "relative input stability": -1,
    "relative output stability": -1,
    "local Lipschitz estimate": -1,
}
MASKS = ("mass accuracy", "rank accuracy", "localisation AUC", "pointing game")
FAITHFUL = ("pixel removal", "removal contrast", "deletion", "insertion", "SRG", "ROAD")
STABLE = ("relative input stability", "relative output stability", "local Lipschitz estimate")
SIMPLE = ("sparseness", "complexity")


@dataclass(frozen=True)
class Statement:
    """That measures of two groups put maps of a picture in like orders."""

    text: str
    first: Sequence[str]
    second: Sequence[str]


STATEMENTS = (
    Statement("measures with masks agree with each other", MASKS, MASKS),
    Statement("measures of faithfulness agree with each other", FAITHFUL, FAITHFUL),
    Statement("measures of stability agree with each other", STABLE, STABLE),
    Statement("sparseness agrees with (low) complexity", ("sparseness",), ("complexity",)),
    Statement("masks agree with faithfulness", MASKS, FAITHFUL),
    Statement("grid pointing agrees with masks", ("grid pointing",), MASKS),
    Statement("grid pointing agrees with faithfulness", ("grid pointing",), FAITHFUL),
    Statement("grid pointing agrees with class sensitivity", ("grid pointing",), ("class sensitivity",)),
    Statement("class sensitivity agrees with MPRT", ("class sensitivity",), ("MPRT",)),
    Statement("MPRT agrees with eMPRT", ("MPRT",), ("eMPRT",)),
    Statement("class sensitivity agrees with masks", ("class sensitivity",), MASKS),
    Statement("class sensitivity agrees with faithfulness", ("class sensitivity",), FAITHFUL),
    Statement("MPRT agrees with faithfulness", ("MPRT",), FAITHFUL),
    Statement("simple maps are faithful", SIMPLE, FAITHFUL),
    Statement("simple maps depend on the class", SIMPLE, ("class sensitivity",)),
    Statement("stable maps are faithful", STABLE, FAITHFUL),
    Statement("stable maps depend on the class", STABLE, ("class sensitivity",)),
)


# --- Numbers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """One network's numbers, the higher the better: `measures x methods at layers x pictures`, and those of maps that
    know nothing."""

    name: str
    keys: list[str]
    values: Array
    nulls: dict[str, Array]

    @property
    def pictures(self) -> int:
        """How many there are."""
        return int(self.values.shape[2])


def read(folder: Path) -> list[Network]:
    """Returns the numbers of each network that has all of them."""
    found = []
    for name in LAYERS:
        measured: dict[str, dict[str, list[float]]] = {}
        for file in sorted(folder.glob(f"*-{name}.json")):
            measured |= json.loads(file.read_text())
        if set(measured) != set(BETTER):
            continue
        keys = [k for k in measured["SRG"] if k.split("|")[0] not in NULLS]
        oriented = {m: {k: sign * np.array(v, float) for k, v in measured[m].items()} for m, sign in BETTER.items()}
        values = np.array([[oriented[m][k] for k in keys] for m in BETTER])
        nulls = {null: np.array([oriented[m][f"{null}|"] for m in BETTER]) for null in NULLS}
        found.append(Network(name, keys, values, nulls))
    return found


def within_pictures(network: Network) -> Array:
    """Returns rank correlations between measures over methods at layers, `measures x measures x pictures`."""
    return np.stack([rank_correlations(network.values[:, :, i]) for i in range(network.pictures)], axis=2)


def of_means(network: Network) -> Array:
    """Returns rank correlations between measures over methods at layers, of their means over pictures."""
    return rank_correlations(np.nanmean(network.values, axis=2))


def rank_correlations(rows: Array) -> Array:
    """Returns Spearman's correlation of each pair of rows, over the columns where both are defined."""
    found = np.full((len(rows), len(rows)), np.nan)
    for a, b in itertools.product(range(len(rows)), repeat=2):
        both = ~np.isnan(rows[a] + rows[b])
        if both.sum() > 2:
            found[a, b] = np.corrcoef(rankdata(rows[a][both]), rankdata(rows[b][both]))[0, 1]
    return found


def agreement(correlations: Array, s: Statement) -> Array:
    """Returns each picture's mean correlation between the measures of two groups."""
    order = list(BETTER)
    pairs = {tuple(sorted((order.index(a), order.index(b)))) for a in s.first for b in s.second if a != b}
    return np.nanmean([correlations[a, b] for a, b in pairs], axis=0)


def beaten(network: Network, null: str) -> Array:
    """Returns for each measure the share of methods at layers whose mean over pictures is below that of a map that
    knows nothing; draws count one half."""
    own, theirs = np.nanmean(network.nulls[null], axis=1)[:, None], np.nanmean(network.values, axis=2)
    return np.asarray(((theirs < own) + 0.5 * (theirs == own)).mean(1))


# --- Tables -----------------------------------------------------------------------------------------------------------


def statements(networks: list[Network], correlations: list[Array]) -> Iterator[str]:
    yield "| in one picture | here | mean rank correlation, network by network | its 95 % intervals |"
    yield "|---|---|---|---|"
    for s in STATEMENTS:
        per_picture = [agreement(c, s) for c in correlations]
        tests = [t for t in map(tested, per_picture) if t is not None]
        corrected = holm([t.p for t in tests])
        told = ", ".join(f"{n.name} {t.mean:+.2f}{stars(p)}" for n, t, p in zip(networks, tests, corrected))
        spans = ", ".join("{:+.2f} to {:+.2f}".format(*interval(v)) for v in per_picture)
        yield f"| {s.text} | {verdict(tests, corrected)} | {told} | {spans} |"


def interval(values: Array) -> tuple[float, float]:
    """Returns the bootstrap interval of a mean over pictures."""
    defined = values[~np.isnan(values)]
    drawn = np.random.default_rng(0).integers(len(defined), size=(2000, len(defined)))
    low, high = np.quantile(defined[drawn].mean(1), [0.025, 0.975])
    return float(low), float(high)


def won(networks: list[Network]) -> Iterator[str]:
    """Which share of methods at layers the maps that know nothing beat, measure by measure."""
    yield "| measure | " + " | ".join(NULLS) + " |\n|---" + "|---" * len(NULLS) + "|"
    shares = {null: np.array([beaten(n, null) for n in networks]) for null in NULLS}
    for i, measure in enumerate(BETTER):
        cells = []
        for null in NULLS:
            own = shares[null][:, i]
            text = ", ".join(f"{100 * share:.0f}" for share in own)
            cells.append(f"**{text}**" if (own > 0.5).all() else text)
        yield f"| {measure} | {' | '.join(cells)} |"


def means(network: Network) -> Iterator[str]:
    """Each method at its layers: the mean rank among all, kind of measure by kind."""
    groups = {
        "masks": MASKS,
        "grid": ("grid pointing",),
        "faithfulness": FAITHFUL,
        "other class": ("class sensitivity",),
    }
    groups |= {"MPRT": ("MPRT",), "stability": STABLE, "simplicity": SIMPLE}
    order, of_measure = list(BETTER), np.nanmean(network.values, axis=2)
    ranks = np.array([rankdata(-row) for row in of_measure])
    yield f"| {network.name} | " + " | ".join(groups) + " |\n" + "|---" * (len(groups) + 1) + "|"
    for k in np.argsort(ranks.mean(0)):
        cells = [f"{ranks[[order.index(m) for m in own], k].mean():.0f}" for own in groups.values()]
        name = network.keys[k].replace("|", ", ").replace("encoder.layers.encoder_layer_", "block ")
        yield f"| {name} | {' | '.join(cells)} |"


# --- Picture ----------------------------------------------------------------------------------------------------------


def draw(networks: list[Network], correlations: list[Array], path: Path) -> None:
    """A matrix for each network: above the diagonal within a picture, below of means over pictures."""
    names = list(BETTER)
    figure, axes = plt.subplots(
        1, len(networks), figsize=(6.4 * len(networks), 6.9), layout="constrained", squeeze=False
    )
    shorter = [name.replace("relative", "rel.").replace(" estimate", "") for name in names]
    for ax, network, within in zip(axes[0], networks, correlations):
        shown = np.where(np.triu(np.ones((len(names),) * 2), 1) > 0, np.nanmean(within, axis=2), of_means(network))
        np.fill_diagonal(shown, np.nan)
        image = ax.imshow(shown, cmap="RdBu_r", vmin=-1, vmax=1)
        for (row, column), value in np.ndenumerate(shown):
            if not np.isnan(value):
                colour = "white" if abs(value) > 0.6 else "black"
                text = f"{value:.1f}".replace("0.", ".").replace("-.0", ".0")
                ax.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
        ax.set_xticks(range(len(names)), shorter, rotation=90, fontsize=9)
        ax.set_yticks(range(len(names)), shorter if ax is axes[0, 0] else [], fontsize=9)
        for edge in (3.5, 4.5, 10.5, 13.5, 15.5):
            ax.axhline(edge, color="black", linewidth=0.6)
            ax.axvline(edge, color="black", linewidth=0.6)
        ax.set_title(f"{network.name}, {network.pictures} pictures, {len(network.keys)} maps each", fontsize=10)
    figure.colorbar(image, ax=axes, shrink=0.5, label="rank correlation", pad=0.01)
    figure.savefig(path, dpi=80, metadata={"Software": None}, bbox_inches="tight")


def main(folder: Path) -> None:
    """Writes the page and its picture."""
    networks = read(folder)
    correlations = [within_pictures(network) for network in networks]
    lines = [(HERE / "measure_agreement_text.md").read_text(encoding="utf-8").rstrip(), ""]
    lines += ["## Which measures agree", "", *statements(networks, correlations), ""]
    lines += ["## What maps that know nothing get", ""]
    order = ", ".join(network.name for network in networks)
    lines += [f"Share (in %) of methods at layers that they beat, by the mean over pictures: {order}. Bold: more than"]
    lines += ["half of them on every network.", "", *won(networks), "", "## Methods", ""]
    lines += ["Mean ranks (1: best) of the means over pictures, the best overall first.", ""]
    for network in networks:
        lines += [*means(network), ""]
    lines += ["Made by `python benchmarks/measure_agreement.py` and `measure_agreement_page.py`."]
    (DOCS / "measure_agreement.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(networks, correlations, DOCS / "measure_agreement.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    warnings.simplefilter("ignore")
    main(parser.parse_args().folder)
