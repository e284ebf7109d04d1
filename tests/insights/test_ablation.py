"""Captum's Feature Ablation, of patches."""

import pytest
import torch

from captum_extract_aggregate import insights
from tests.insights.given import Two, needs_insights, of_insights


@needs_insights
def test_captums_feature_ablation_goes_by_patches(model, x):
    insights.register(model, x)
    from captum.insights.attr_vis.config import ATTRIBUTION_NAMES_TO_METHODS

    forwards = []
    handle = model.register_forward_hook(lambda *_: forwards.append(1))
    method = ATTRIBUTION_NAMES_TO_METHODS["Feature Ablation"](model)
    (found,) = method.attribute.__wrapped__(method, (x,), patches=4, baselines=(torch.zeros_like(x),), target=3)
    handle.remove()
    assert len(forwards) == 17
    assert found.shape == x.shape
    assert len(found[0, 0].unique()) <= 16
    with torch.no_grad():
        without = x.clone()
        without[..., :24, :24] = 0
        assert float(found[0, 0, 0, 0]) == pytest.approx(float((model(x) - model(without))[0, 3]), abs=1e-4)


@needs_insights
class TestSeveralInputs:
    @pytest.mark.parametrize("kind", ["vector", "tokens"])
    def test_ablation_takes_other_inputs_value_by_value(self, kind):
        from captum.attr import FeatureAblation

        model = Two(kind)
        x, y = model.inputs()
        of_x, of_y = of_insights(model, (x, y), "Feature Ablation", patches=2)
        assert len(of_x[0, 0].unique()) == 4
        wanted = FeatureAblation(lambda second: model(x, second)).attribute(y, target=2)
        torch.testing.assert_close(of_y, wanted)

    def test_ablation_without_an_image(self):
        from captum.attr import FeatureAblation

        y = torch.rand(1, 5)
        model = torch.nn.Linear(5, 6)
        (found,) = of_insights(model, (y,), "Feature Ablation", patches=8)
        torch.testing.assert_close(found, FeatureAblation(model).attribute(y, target=2))
