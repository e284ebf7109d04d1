"""Draws docs/performance.png from what was measured: a call over its bare passes, and other libraries over ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

OUT = Path(__file__).parents[2] / "docs" / "performance.png"
BLUE, ORANGE = "#0072B2", "#D55E00"
Rows = Sequence[Mapping[str, Any]]
_NAMES = {"resnet50": "ResNet-50", "resnet18": "ResNet-18", "mobilenet_v2": "MobileNetV2", "vgg16": "VGG-16"}
_NAMES |= {"efficientnet_b0": "EfficientNet-B0", "vit_b_16": "ViT-B/16"}


def draw(stored: Mapping[str, Any], path: Path = OUT) -> None:
    """Draws the figure, if both of its sections were measured."""
    if not {"sessions", "peers"} <= stored.keys():
        return
    sessions, peers = stored["sessions"]["rows"], stored["peers"]["rows"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained", width_ratios=[2, 3])
    _sessions(left, [row for row in sessions if row["case"].startswith("NormGrad")])
    _peers(right, peers)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _sessions(ax: Any, rows: Rows) -> None:
    networks = list(dict.fromkeys(row["case"].split(", ")[1] for row in rows))
    for label, colour, marker, shift in (("in a session", BLUE, "o", -0.12), ("a call by itself", ORANGE, "s", 0.12)):
        chosen = [row for row in rows if row["case"].endswith("session") == (label == "in a session")]
        at = [networks.index(row["case"].split(", ")[1]) + shift for row in chosen]
        _dots(ax, at, chosen, colour, marker, label)
    ax.set_yticks(range(len(networks)), [_NAMES[name] for name in networks])
    ax.invert_yaxis()
    ax.axvline(1, color="black", linewidth=1)
    ax.set_xlabel("time over the bare passes")
    ax.set_title("NormGrad at four layers, one image", fontsize=10)
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
    ax.grid(axis="x", alpha=0.3)


def _peers(ax: Any, rows: Rows) -> None:
    rows = sorted(rows, key=lambda row: -row["median"])
    _dots(ax, range(len(rows)), rows, BLUE, "o", None)
    ax.set_yticks(range(len(rows)), [_told(row["case"]) for row in rows], fontsize=8)
    ax.invert_yaxis()
    ax.axvline(1, color="black", linewidth=1)
    ax.set_xscale("log", base=2)
    ticks = [t for t in (0.5, 1, 2, 4, 8, 16) if t < 2 * max(row["median"] for row in rows)]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.set_xlabel("their time over ours, at equal output (log scale)")
    ax.set_title("Other libraries, one image", fontsize=10)
    ax.grid(axis="x", alpha=0.3)


def _dots(ax: Any, at: Sequence[float], rows: Rows, colour: str, marker: str, label: str | None) -> None:
    """Draws medians, with the ranges as thin lines."""
    ax.hlines(at, [row["low"] for row in rows], [row["high"] for row in rows], color=colour, alpha=0.4, linewidth=1.5)
    ax.plot([row["median"] for row in rows], at, marker, color=colour, label=label)


def _told(case: str) -> str:
    for name, told in _NAMES.items():
        case = case.replace(name, told)
    return case.replace("ours in a session", "session")
