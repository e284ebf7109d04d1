"""What biases do to decisions: removing them, decaying them, and how robust decisions are to the input's scale.

Source: Grabska-Barwinska, Measuring and improving the quality of visual explanations (2020), section 3, appendices B-D.
"""

from captum_extract_aggregate.bias_study.decay import DecayedBiases, DecayStep, decay_biases, plot_decay
from captum_extract_aggregate.bias_study.removal import biases_removed, biases_scaled, remove_biases
from captum_extract_aggregate.bias_study.report import BiasReport, bias_report
from captum_extract_aggregate.bias_study.robustness import InputRobustness, RobustnessRow, input_robustness

__all__ = [
    "BiasReport",
    "DecayStep",
    "DecayedBiases",
    "InputRobustness",
    "RobustnessRow",
    "bias_report",
    "biases_removed",
    "biases_scaled",
    "decay_biases",
    "input_robustness",
    "plot_decay",
    "remove_biases",
]
