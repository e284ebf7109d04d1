"""Every figure and table of the three papers: what it shows, and what reproduces it or why nothing does."""

from __future__ import annotations

from dataclasses import dataclass

PAPERS = {
    "R20": "Rebuffi, Fong, Ji, Vedaldi: There and Back Again (CVPR 2020)",
    "K20": "Khakzar, Baselizadeh, Navab: Rethinking Positive Aggregation and Propagation of Gradients (WHI 2020)",
    "G20": "Grabska-Barwinska: Measuring and improving the quality of visual explanations (2020)",
}


@dataclass(frozen=True)
class Published:
    """Holds a figure or table: `number` as the paper counts (G20's supplement counts anew, from S1)."""

    paper: str
    number: str
    shows: str
    why_not: str = ""

    @property
    def experiment(self) -> str:
        """The name of what reproduces it: `r20-fig5`, `k20-table1`, `g20-fig-s8`; nothing where nothing does."""
        if self.why_not:
            return ""
        kind, number = self.number.lower().split(" ")
        kind = {"fig.": "fig", "table": "table"}[kind]
        return f"{self.paper.lower()}-{kind}{'-' if number.startswith('s') else ''}{number}"


_SKETCH = "a sketch of the method, without data"
_FORMULAE = "formulae, which the tests compare with the code"
PUBLISHED: tuple[Published, ...] = tuple(
    Published(paper, *rest)
    for paper, entries in {
        "R20": (
            ("Fig. 1", "the virtual identity layer", _SKETCH),
            ("Fig. 2", "maps at every depth and their weighted combination"),
            ("Fig. 3", "pointing game by layer"),
            ("Fig. 4", "GradCAM by depth: its failure before the last layer"),
            ("Fig. 5", "class sensitivity with and without meta-saliency, pictures"),
            ("Fig. 6", "class sensitivity by method and layer"),
            ("Fig. 7", "class sensitivity with and without meta-saliency, by method"),
            ("Fig. 8", "maps of a network that is randomised layer by layer"),
            ("Fig. 9", "the weights of the weighting schemes, by layer"),
            ("Fig. 10", "meta and plain maps' correlation over training, training against validation images"),
            ("Fig. 11", "meta-saliency's correlation with the end of training, by epoch"),
            ("Fig. 12", "positive and negative meta-saliency"),
            ("Fig. 13", "randomised weights, maps with and without meta-saliency"),
            ("Fig. 14", "captions explained, by layer and combined"),
            ("Fig. 15", "methods of the framework at different layers"),
            ("Table 1", "spatial contributions by type of layer", _FORMULAE),
            ("Table 2", "methods as extract and aggregate", _FORMULAE),
            ("Table 3", "pointing game, best layer and best combination"),
            ("Table 4", "agreement with and without the virtual identity"),
            ("Table 5", "the best individual layer of every method"),
            ("Table 6", "gains of each weighting scheme over the best layer"),
        ),
        "K20": (
            ("Fig. 1", "maps of aggregation methods for different classes"),
            ("Fig. 2", "GradCAM_Pos at every layer, for different classes"),
            ("Fig. 3", "GradCAM++ at every layer, for different classes"),
            ("Fig. 4", "similarity while parameters are randomised, aggregation and propagation"),
            ("Fig. 5", "maps of the original, the half and the fully randomised network"),
            ("Fig. 6", "maps of propagation methods for different classes"),
            ("Table 1", "pointing games, original and restricted: aggregation"),
            ("Table 2", "class sensitivity: aggregation"),
            ("Table 3", "pointing games, original and restricted: propagation"),
            ("Table 4", "class sensitivity: propagation"),
        ),
        "G20": (
            ("Fig. 1", "attributions of a linear classifier of digits"),
            ("Fig. 2", "the complete decomposition of one picture's score"),
            ("Fig. 3", "accuracy with biases and without"),
            ("Fig. 4", "activity attributions of one picture, with biases and after their decay"),
            ("Fig. 5", "activities against biases, by layer: delta e-"),
            ("Fig. 6", "aggregated layers: delta e- and e-"),
            ("Fig. 7", "examples of the methods that the evaluation chose"),
            ("Fig. S1", "accuracy when pixel values are scaled"),
            ("Fig. S2", "accuracy when pixel values are shifted"),
            ("Fig. S3", "what removing the biases costs"),
            ("Fig. S4", "correlation of outputs with and without biases"),
            ("Fig. S5", "outputs without biases as a line of those with them"),
            ("Fig. S6", "decaying the biases: profile and performance"),
            ("Fig. S7", "decaying the biases in fewer steps"),
            ("Fig. S8", "correlation of activities with biases, and with those of networks without biases"),
            ("Fig. S9", "signed maps with biases and after their decay"),
            ("Fig. S10", "aggregated signed maps with biases and after their decay"),
            ("Fig. S11", "unsigned maps with biases and after their decay"),
            ("Fig. S12", "another interpolation: activities, biases, gradient"),
            ("Fig. S13", "activities against biases, by layer: delta e_Delta"),
            ("Fig. S14", "single and aggregated layers: delta e-, delta e+, delta e_Delta"),
            ("Fig. S15", "single and aggregated layers: e-, e+, e_Delta"),
            ("Fig. S16", "single and aggregated layers: other images' maps, e of noise"),
        ),
    }.items()
    for rest in entries
)


def counted() -> tuple[int, int]:
    """Returns how many figures and tables are reproduced, and how many there are.

    Example:
        >>> from captum_extract_aggregate.reproduction.published import counted
        >>> counted()
        (51, 54)
    """
    return sum(not p.why_not for p in PUBLISHED), len(PUBLISHED)


def published_table(paper: str = "") -> str:
    """Returns the table of all figures and tables (of one paper), in Markdown, with what reproduces each."""
    rows = [
        f"| {p.paper} | {p.number} | {p.shows} | {f'`{p.experiment}`' if p.experiment else f'not: {p.why_not}'} |"
        for p in PUBLISHED
        if paper in ("", p.paper)
    ]
    return "\n".join(["| paper | number | shows | reproduced by |", "|---|---|---|---|", *rows])
