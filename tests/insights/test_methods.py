"""The methods in the list of Captum Insights."""

import re

import captum
import pytest
import torch
from typer.testing import CliRunner

import captum_extract_aggregate as cea
from captum_extract_aggregate import insights
from captum_extract_aggregate.cli import app
from captum_extract_aggregate.insights import input_maps, methods, offered
from tests.insights.given import HAS_INSIGHTS, Registered, needs_insights


@pytest.mark.skipif(HAS_INSIGHTS, reason="Captum Insights is installed")
def test_where_there_is_no_insights_one_sentence_says_how_to_get_it():
    with pytest.raises(ImportError, match=re.escape(methods.INSTALL)):
        insights.register()
    result = CliRunner().invoke(app, ["insights", "--captums"])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert methods.INSTALL in result.stderr
    assert captum.__version__ in result.stderr
    assert "explain --html" in result.stderr


@needs_insights
class TestRegistered(Registered):
    def test_layers_by_name(self, model, x, config):
        shown = config.ATTRIBUTION_METHOD_CONFIG["normgrad"].params["layer"]
        assert shown.limit[:5] == ["layer1", "layer2", "layer3", "layer4", offered.INPUT]
        assert "layer4.conv2" in shown.limit
        assert len(set(shown.limit)) == len(shown.limit)
        assert shown.value == "layer3"  # behind layer4 positions are averaged, and nothing of the class is left
        assert config.ATTRIBUTION_METHOD_CONFIG["gradcam"].params["layer"].value == "layer4"
        for layer in (*shown.limit[:4], "layer2.conv1"):
            wanted = cea.NormGrad(model, layer).attribute(x, target=5)
            found = self.calculate(model, x, "normgrad", {"layer": layer, "virtual_identity": "yes"})
            torch.testing.assert_close(found, input_maps.like_input(wanted, x))

    def test_without_a_model_the_layer_is_typed_in(self, model, x, config):
        insights.register()
        assert config.ATTRIBUTION_METHOD_CONFIG["normgrad"].params["layer"].type == "string"
        wanted = input_maps.like_input(cea.LinearApproximation(model, "layer4").attribute(x, target=5), x)
        torch.testing.assert_close(self.calculate(model, x, "linear-approximation", {"layer": ""}), wanted)
        wanted = input_maps.like_input(cea.NormGrad(model, "layer3").attribute(x, target=5), x)
        found = self.calculate(model, x, "normgrad", {"layer": "", "virtual_identity": "yes"})
        torch.testing.assert_close(found, wanted)
        insights.register(model, x)

    def test_captums_own_methods_stay(self, config):
        assert "Integrated Gradients" in config.ATTRIBUTION_NAMES_TO_METHODS


@needs_insights
def test_a_model_without_stages_and_one_of_any_forward():
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)).eval()
    insights.register(flat, torch.zeros(1, 3, 2, 2))
    from captum.insights.attr_vis.config import ATTRIBUTION_METHOD_CONFIG

    assert ATTRIBUTION_METHOD_CONFIG["normgrad"].params["layer"].value == "the input"
    with pytest.raises(TypeError, match="model is a function"):
        insights.register(lambda x: x)
