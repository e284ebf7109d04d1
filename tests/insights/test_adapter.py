"""Every method through Captum Insights' own machinery."""

import pytest
import torch
import torchvision

import captum_extract_aggregate as cea
from captum_extract_aggregate import insights
from captum_extract_aggregate.insights import input_maps, offered
from tests.insights.given import Registered, Two, needs_insights, of_insights

# These networks have no attention.
OF_ATTENTION = ["legrad", "gradient-weighted-attention", "attention-rollout"]
NAMES = [name for name in offered.names() if name not in OF_ATTENTION]


@needs_insights
class TestRegistered(Registered):
    @pytest.mark.parametrize("name", NAMES)
    def test_every_method_gives_what_the_page_can_draw(self, name, model, x, config):
        params = config.ATTRIBUTION_METHOD_CONFIG[name].params
        arguments = {key: value.value for key, value in params.items()}
        if name.startswith("captum:") and "n_steps" in arguments:
            arguments["n_steps"] = 2
        before = {key: t.clone() for key, t in model.state_dict().items()}
        with torch.no_grad():
            found = self.calculate(model, x, name, arguments)
        assert found.shape == x.shape
        assert bool(found.isfinite().all())
        assert float(found.abs().max()) == pytest.approx(1, abs=1e-4) or found.count_nonzero() == 3
        assert all(torch.equal(t, before[key]) for key, t in model.state_dict().items())

    @pytest.mark.parametrize("name", NAMES)
    def test_every_choice_of_every_argument_is_taken(self, name, model, x, config):
        params = config.ATTRIBUTION_METHOD_CONFIG[name].params
        for key, value in params.items():
            if key == "layer":
                continue
            for choice in value.limit if value.type == "enum" else [value.limit[0], 50]:
                arguments = {k: v.value for k, v in params.items()} | {key: choice}
                if choice in ("layer", "no"):  # of a real layer, not of a block
                    arguments["layer"] = "layer4.conv2"
                if name.startswith("captum:"):
                    arguments = {**arguments, "n_steps": min(choice, 3)}
                assert self.calculate(model, x, name, arguments).shape == x.shape


@needs_insights
class TestSeveralInputs:
    @pytest.mark.parametrize(
        ("kind", "second_first"), [("vector", False), ("vector", True), ("image", False), ("tokens", True)]
    )
    def test_every_method_gives_each_input_its_own(self, kind, second_first):
        from captum.insights.attr_vis.config import ATTRIBUTION_METHOD_CONFIG

        model = Two(kind, second_first)
        inputs = model.inputs()
        insights.register(model, inputs)
        for name in ["Feature Ablation", *NAMES]:
            arguments = {key: field.value for key, field in ATTRIBUTION_METHOD_CONFIG[name].params.items()}
            layers = {"layer": "both"} if "layer" in arguments else {}
            for chosen in [layers, *([{"layer": offered.INPUT}] if layers and name != "bias" else [])]:
                if chosen.get("layer") == offered.INPUT and name.startswith("captum:"):
                    with pytest.raises(ValueError, match=r"layer is 'the input'.*expected a layer of the model"):
                        of_insights(model, inputs, name, **arguments | chosen)
                    continue
                found = of_insights(model, inputs, name, **arguments | chosen)
                assert [f.shape for f in found] == [x.shape for x in inputs], (name, chosen)
                assert all(bool(f.isfinite().all()) for f in found)
                assert max(float(f.abs().max()) for f in found) <= 1.0001
                assert all(f.count_nonzero() > 0 for f, x in zip(found, inputs) if x.ndim == 4)

    @pytest.mark.parametrize(("name", "method"), [("lrp", cea.LRP), ("guided", cea.GuidedBackprop)])
    def test_at_the_input_each_gets_what_arrives_there(self, name, method):
        for kind in ("vector", "image"):
            model = Two(kind)
            inputs = model.inputs()
            wanted = method(model).attribute(inputs, target=2)
            largest = max(float(w.abs().max()) for w in wanted)
            for found, own in zip(of_insights(model, inputs, name, layer=offered.INPUT), wanted):
                torch.testing.assert_close(found, own / largest)

    def test_at_the_input_of_one_image(self):
        model = Two("vector").a
        x = torch.rand(1, 3, 8, 8)
        (found,) = of_insights(lambda x: model(x).mean((2, 3)), (x,), "lrp", layer=offered.INPUT)
        wanted = cea.LRP(lambda x: model(x).mean((2, 3))).attribute(x, target=2)
        torch.testing.assert_close(found, input_maps.like_input(wanted, x))

    def test_arguments_of_the_model_come_last(self):
        model = Two("vector", second_first=True)
        inputs = model.inputs()
        one, two = (of_insights(model, inputs, "lrp", extra, layer="both") for extra in (None, (torch.tensor([2.0]),)))
        torch.testing.assert_close(one, two)  # scaled alike
        three = of_insights(model, inputs, "captum:LayerGradCam", (torch.tensor([-1.0]),), layer="both")
        torch.testing.assert_close(three[1], -of_insights(model, inputs, "captum:LayerGradCam", layer="both")[1])


@needs_insights
class TestTransformer(Registered):
    """A transformer whose layers are not those of its attention."""

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        torch.manual_seed(0)
        model = torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=10).eval()
        return model

    @pytest.fixture(scope="class")
    @classmethod
    def x(cls):
        return torch.rand(1, 3, 32, 32)

    @pytest.mark.parametrize("name", ["legrad", "gradient-weighted-attention"])
    def test_maps_of_attention(self, name, model, x, config):
        shown = config.ATTRIBUTION_METHOD_CONFIG[name].params
        layers = list(cea.attention_layers(model, x))
        if name == "gradient-weighted-attention":
            assert shown["layer"].limit[: len(layers)] == layers
            assert shown["layer"].value == layers[-1]
        found = self.calculate(model, x, name, {key: value.value for key, value in shown.items()})
        assert found.shape == x.shape
        assert float(found.abs().max()) == pytest.approx(1, abs=1e-4)

    def test_rollout_says_why_it_refuses(self, model, x, config):
        with pytest.raises(ValueError, match="cannot be multiplied over layers"):
            self.calculate(model, x, "attention-rollout", {})
