"""Every table and figure that can be reproduced, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from captum_extract_aggregate.reproduction import biases, g20, k20, r20, r20_sensitivity
from captum_extract_aggregate.reproduction.findings import Outcome
from captum_extract_aggregate.reproduction.setting import Setting


@dataclass(frozen=True)
class Experiment:
    """Holds a table or figure: what it shows (the first line of `run`'s docstring), and whether it needs known
    objects."""

    run: Callable[[Setting], Outcome]
    needs_objects: bool = False

    @property
    def title(self) -> str:
        """What it shows."""
        return (self.run.__doc__ or "").strip().splitlines()[0]


EXPERIMENTS: dict[str, Experiment] = {
    "r20-table3": Experiment(r20.table3, True),
    "r20-table4": Experiment(r20.table4),
    "r20-table6": Experiment(r20.table6, True),
    "r20-fig3": Experiment(r20.fig3, True),
    "r20-fig5": Experiment(r20.fig5, True),
    "r20-fig6": Experiment(r20_sensitivity.fig6),
    "r20-fig7": Experiment(r20_sensitivity.fig7),
    "r20-fig8": Experiment(r20_sensitivity.fig8),
    "r20-fig10": Experiment(r20_sensitivity.fig10),
    "r20-fig12": Experiment(r20_sensitivity.fig12),
    "r20-fig15": Experiment(r20_sensitivity.fig15),
    "k20-table1": Experiment(k20.table1, True),
    "k20-table2": Experiment(k20.table2),
    "k20-table3": Experiment(k20.table3, True),
    "k20-table4": Experiment(k20.table4),
    "k20-fig1": Experiment(k20.fig1),
    "k20-fig4": Experiment(k20.fig4),
    "g20-fig2": Experiment(g20.fig2),
    "g20-fig5": Experiment(g20.fig5),
    "g20-fig6": Experiment(g20.fig6),
    "g20-fig12": Experiment(g20.fig12),
    "g20-fig14": Experiment(g20.fig14),
    "g20-fig15": Experiment(g20.fig15),
    "g20-fig16": Experiment(g20.fig16),
    "g20-bias-removal": Experiment(biases.removal),
    "g20-robustness": Experiment(biases.robustness),
    "g20-bias-decay": Experiment(biases.decay),
}
