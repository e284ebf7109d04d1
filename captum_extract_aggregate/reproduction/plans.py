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


def block(setting: Setting, layer: str) -> str:
    """Returns what is added to a method's name at a layer before the last: K20's B1 to B4."""
    return "" if layer == setting.layers[-1] else f" B{setting.layers.index(layer) + 1}"


AT_LAYERS = {"GradCAM++": "gradcam++", "GradCAM_Pos": "gradcam-pos", "GradMid": "gradmid"}


def positive(setting: Setting) -> list[MethodPlan]:
    """Returns K20's methods that aggregate: at the last layer, at earlier ones (B1, B2, ...), or over all."""
    last = (setting.layers[-1],)
    plans = [MethodPlan("gradcam", "GradCAM", last), MethodPlan("fullgrad", "FullGrad")]
    for name, method in AT_LAYERS.items():
        plans += [MethodPlan(method, name + block(setting, layer), (layer,)) for layer in reversed(setting.layers)]
    return [
        *plans,
        MethodPlan("cumulative-gradcam", "CumulativeGradCAM"),
        MethodPlan("cumulative-gradmid", "CumulativeGradMid"),
    ]


def at_the_end(setting: Setting) -> list[MethodPlan]:
    """Returns those without earlier layers."""
    earlier = {name + block(setting, layer) for name in AT_LAYERS for layer in setting.layers[:-1]}
    return [plan for plan in positive(setting) if plan.label not in earlier]


def propagated(setting: Setting) -> list[MethodPlan]:
    """Returns K20's methods that propagate to the input; balanced gradients instead of rules for rectifiers where a
    network has none."""
    at = ("input",)
    gradients = MethodPlan("gradient", "gradients", at)
    rules = [
        MethodPlan("guided", "guided", at, channels="max_abs"),
        gradients,
        MethodPlan("rectgrad", "RectGrad", at),
        MethodPlan("rectgrad-mod", "RectGrad_Mod", at),
    ]
    balanced = [
        gradients,
        MethodPlan("libra-grad", "balanced gradients", at, {"method": "gradient"}),
        MethodPlan("libra-grad", "balanced gradients x input", at),
    ]
    return [
        *(rules if setting.rectifies else balanced),
        MethodPlan("lrp", "LRP-gamma-inf", at, {"gamma": float("inf")}),
        MethodPlan("lrp", "LRP-0", at),
    ]


INSIDE, RESTRICTED_INSIDE = "pointing_inside", "restricted_pointing_inside"
_WITHIN = {"tolerance": 1.0}  # less than a pixel away, that is, in the mask


def pointing(setting: Setting) -> tuple[MeasurePlan, ...]:
    """Returns the pointing game as TorchRay plays it, with a tolerance, and its restricted form."""
    arguments = {"tolerance": setting.tolerance}
    return (
        MeasurePlan("pointing_game", arguments=arguments),
        MeasurePlan("restricted_pointing_game", arguments=arguments),
    )


def pointing_inside() -> tuple[MeasurePlan, ...]:
    """Returns K20's own games: a hit lies inside the mask (and hits are counted over all trials)."""
    return (
        MeasurePlan("pointing_game", INSIDE, _WITHIN),
        MeasurePlan("restricted_pointing_game", RESTRICTED_INSIDE, _WITHIN),
    )


SENSITIVITY = MeasurePlan("class_sensitivity")
HOG_SENSITIVITY = MeasurePlan("class_sensitivity", "hog_sensitivity", {"similarity": "hog_spearman"})
