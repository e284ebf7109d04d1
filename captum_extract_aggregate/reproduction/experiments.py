"""Every experiment by name: the papers' figures and tables under their numbers, and further ones under their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from captum_extract_aggregate.reproduction import (
    bias_decay,
    biases,
    g20,
    g20_pictures,
    k20,
    k20_pictures,
    localisation,
    r20,
    r20_pictures,
    r20_sensitivity,
    training,
)
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
    "r20-fig2": Experiment(r20_pictures.fig2),
    "r20-fig3": Experiment(r20.fig3, True),
    "r20-fig4": Experiment(r20_pictures.fig4),
    "r20-fig5": Experiment(r20_pictures.fig5),
    "r20-fig6": Experiment(r20_sensitivity.fig6),
    "r20-fig7": Experiment(r20_sensitivity.fig7),
    "r20-fig8": Experiment(r20_sensitivity.fig8),
    "r20-fig9": Experiment(r20.fig9),
    "r20-fig10": Experiment(training.fig10),
    "r20-fig11": Experiment(training.fig11),
    "r20-fig12": Experiment(r20_pictures.fig12),
    "r20-fig13": Experiment(r20_pictures.fig13),
    "r20-fig14": Experiment(r20_pictures.fig14),
    "r20-fig15": Experiment(r20_pictures.fig15),
    "r20-table3": Experiment(r20.table3, True),
    "r20-table4": Experiment(r20.table4),
    "r20-table5": Experiment(r20.table5, True),
    "r20-table6": Experiment(r20.table6, True),
    "r20-combinations": Experiment(r20.combinations, True),
    "r20-grid": Experiment(r20_sensitivity.grid),
    "r20-localisation": Experiment(localisation.localisation, True),
    "r20-grid-pointing": Experiment(localisation.grid_pointing),
    "k20-fig1": Experiment(k20_pictures.fig1),
    "k20-fig2": Experiment(k20_pictures.fig2),
    "k20-fig3": Experiment(k20_pictures.fig3),
    "k20-fig4": Experiment(k20.fig4),
    "k20-fig5": Experiment(k20_pictures.fig5),
    "k20-fig6": Experiment(k20_pictures.fig6),
    "k20-table1": Experiment(k20.table1, True),
    "k20-table2": Experiment(k20.table2),
    "k20-table3": Experiment(k20.table3, True),
    "k20-table4": Experiment(k20.table4),
    "g20-fig1": Experiment(g20_pictures.fig1),
    "g20-fig2": Experiment(g20_pictures.fig2),
    "g20-fig3": Experiment(biases.fig3),
    "g20-fig4": Experiment(bias_decay.fig4),
    "g20-fig5": Experiment(g20.fig5),
    "g20-fig6": Experiment(g20.fig6),
    "g20-fig7": Experiment(g20_pictures.fig7),
    "g20-fig-s1": Experiment(biases.fig_s1),
    "g20-fig-s2": Experiment(biases.fig_s2),
    "g20-fig-s3": Experiment(biases.fig_s3),
    "g20-fig-s4": Experiment(biases.fig_s4),
    "g20-fig-s5": Experiment(biases.fig_s5),
    "g20-fig-s6": Experiment(bias_decay.fig_s6),
    "g20-fig-s7": Experiment(bias_decay.fig_s7),
    "g20-fig-s8": Experiment(bias_decay.fig_s8),
    "g20-fig-s9": Experiment(bias_decay.fig_s9),
    "g20-fig-s10": Experiment(bias_decay.fig_s10),
    "g20-fig-s11": Experiment(bias_decay.fig_s11),
    "g20-fig-s12": Experiment(g20.fig_s12),
    "g20-fig-s13": Experiment(g20.fig_s13),
    "g20-fig-s14": Experiment(g20.fig_s14),
    "g20-fig-s15": Experiment(g20.fig_s15),
    "g20-fig-s16": Experiment(g20.fig_s16),
    "g20-decision-flips": Experiment(g20.decision_flips),
    "g20-bias-delta-plus": Experiment(g20.bias_delta_plus),
    "g20-others": Experiment(g20.others),
}
