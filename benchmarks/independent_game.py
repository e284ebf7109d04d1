"""This package's pointing game beside an independent one, on the same network and the same VOC images.

The independent one is a plain loop over images, written without this package. Boxes of a detector are drawn into the
pixels of these images, so what they say of methods is no evidence; that two programs agree on them is.
"""

from __future__ import annotations

from captum_extract_aggregate.reproduction import Outcome, Setting
from captum_extract_aggregate.reproduction.findings import Finding, class_mean, markdown, subset, values_of
from captum_extract_aggregate.reproduction.plans import R20, pointing

NAME = "independent-game"
TITLE = "An independent pointing game"
HOW = (
    "A plain pointing game was written for this network and these images without this package. Mean over the classes, "
    "in percent. A detector's boxes are drawn into these images' pixels: that two programs agree on them is evidence, "
    "what they say of methods is none."
)
INDEPENDENT = {  # "all/difficult" at features.2, .5, .8, .12 of SqueezeNet 1.1 with a VOC head, in percent
    "GradCAM": "60.7/32.3 47.5/14.2 49.7/22.9 75.8/55.1",
    "linear approx.": "74.5/52.7 76.2/49.9 77.7/55.5 75.8/55.1",
    "NormGrad": "77.4/53.7 78.3/51.0 78.4/52.9 72.9/45.5",
    "selective": "74.6/46.0 78.3/54.3 78.8/54.2 73.4/55.8",
}


def independent_game(setting: Setting) -> Outcome:
    """Returns the mean over the classes of both games, and whether they are the same to the digit that is known."""
    results, rows, gaps = setting.evaluate([R20[name] for name in INDEPENDENT], pointing(setting), "maps"), [], []
    for method, known in INDEPENDENT.items():
        for layer, figures in zip(setting.layers, known.split(), strict=True):
            hits = values_of(results, "pointing_game", method, layer)
            here = [class_mean(subset(results, hits, which)) for which in ("all", "difficult")]
            theirs = [float(v) for v in figures.split("/")]
            gaps += [abs(round(a, 1) - b) for a, b in zip(here, theirs, strict=True)]
            rows.append(
                [method, layer, f"{here[0]:.1f} / {here[1]:.1f}", figures.replace("/", " / "), f"{max(gaps[-2:]):.1f}"]
            )
    header = ["method", "layer", "here, all / difficult", "independent", "largest difference"]
    finding = Finding("both games give the same figures", max(gaps) < 0.05, len(gaps), f"largest gap {max(gaps):.1f}")
    return Outcome([markdown(header, rows)], [finding])
