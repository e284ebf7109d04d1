"""The methods of the papers' tables, as plans."""

from __future__ import annotations

from typing import Literal

from captum_extract_aggregate.evaluation import CombinationPlan, MeasurePlan, MethodPlan
from captum_extract_aggregate.reproduction.setting import Setting

R20 = {
    "cEB": MethodPlan("contrastive-excitation", "cEB"),
    "EB": MethodPlan("excitation", "EB"),
    "GradCAM": MethodPlan("gradcam", "GradCAM"),
    "gradient": MethodPlan("gradient", "gradient"),
    "gradient-sum": MethodPlan("gradient", "gradient-sum", arguments={"aggregate": "sum"}),
    "guided": MethodPlan("guided", "guided"),
    "linear approx.": MethodPlan("linear-approximation", "linear approx."),
    "NormGrad": MethodPlan("normgrad", "NormGrad"),
    "selective": MethodPlan("selective-normgrad", "selective"),
}
SCHEMES = ("uniform", "linear", "feature spread", "accuracy")
MODES: tuple[Literal["product", "sum"], ...] = ("product", "sum")


def combined(setting: Setting) -> list[MethodPlan]:
    """Returns R20's methods at every layer, and their layers combined by every scheme."""
    weights: dict[str, str | tuple[float, ...]] = {"uniform": "uniform", "linear": "linear"}
    weights["feature spread"] = tuple(round(w, 6) for w in setting.spread_weights.values())
    weights["accuracy"] = tuple(round(w, 6) for w in setting.probe_weights.values())
    combinations = tuple(CombinationPlan(mode, weights[s], f"{s}, {mode}") for s in SCHEMES for mode in MODES)
    return [MethodPlan(m.method, m.label, arguments=m.arguments, combine=combinations) for m in R20.values()]


def positive(layer: str) -> list[MethodPlan]:
    """Returns K20's methods that aggregate at the last layer, or over all."""
    last = (layer,)
    return [
        MethodPlan("gradcam", "GradCAM", last),
        MethodPlan("fullgrad", "FullGrad"),
        MethodPlan("gradcam++", "GradCAM++", last),
        MethodPlan("gradcam-pos", "GradCAM_Pos", last),
        MethodPlan("gradmid", "GradMid", last),
        MethodPlan("cumulative-gradcam", "CumulativeGradCAM"),
        MethodPlan("cumulative-gradmid", "CumulativeGradMid"),
    ]


def propagated() -> list[MethodPlan]:
    """Returns K20's methods that propagate to the input."""
    at = ("input",)
    return [
        MethodPlan("guided", "guided", at, channels="max_abs"),
        MethodPlan("gradient", "gradients", at),
        MethodPlan("rectgrad", "RectGrad", at),
        MethodPlan("rectgrad-mod", "RectGrad_Mod", at),
        MethodPlan("lrp", "LRP-gamma-inf", at, {"gamma": float("inf")}),
        MethodPlan("lrp", "LRP-0", at),
    ]


def pointing(setting: Setting) -> tuple[MeasurePlan, ...]:
    """Returns the pointing game and its restricted form."""
    arguments = {"tolerance": setting.tolerance}
    return (
        MeasurePlan("pointing_game", arguments=arguments),
        MeasurePlan("restricted_pointing_game", arguments=arguments),
    )


SENSITIVITY = MeasurePlan("class_sensitivity")
HOG_SENSITIVITY = MeasurePlan("class_sensitivity", "hog_sensitivity", {"similarity": "hog_spearman"})
