"""How a call comes in: arguments that a method does not take, and tools of Captum's that it cannot serve."""

import captum.attr
import pytest
import torch
from captum.concept import TCAV, Concept
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.by_name import make_method
from captum_extract_aggregate.attr.entry import takes_keyword


class Reused(nn.Module):
    """One ReLU module that runs twice, which Captum's DeepLift does not take."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.relu, self.head = (
            nn.Conv2d(3, 4, 3),
            nn.Conv2d(4, 4, 3),
            nn.ReLU(),
            nn.Linear(4, 3),
        )

    def forward(self, x):
        return self.head(self.relu(self.conv2(self.relu(self.conv1(x)))).mean((2, 3)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["DeepLift", "LayerDeepLift"])
def test_a_model_that_captum_s_class_refuses(images, name):
    net = Reused().eval()
    methods = {"ours": cea.NormGrad(net, net.conv1), "theirs": make_method(f"captum:{name}", net, [net.conv1])}
    with pytest.raises(ValueError, match=rf"^Captum's {name} does not explain this model: .*; expected another method"):
        cea.attribute_together(methods, images, 1)


def test_errors_of_others_methods_stay_theirs(small_net, images):
    class Own(captum.attr.Saliency):
        def attribute(self, inputs, target=None):
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        cea.attribute_together({"own": Own(small_net)}, images, 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [cea.LinearApproximation, cea.GradCAM])
def test_tcav_is_refused_in_one_line(small_net, images, tmp_path, make):
    def concept(i):
        data = torch.utils.data.DataLoader(images + i, batch_size=3)
        return Concept(i, f"concept {i}", data)

    tcav = TCAV(small_net, ["conv3"], layer_attr_method=make(small_net, None), save_path=str(tmp_path))
    with pytest.raises(ValueError, match=rf"layer_attr_method is a {make.__name__}, .*LayerGradientXActivation"):
        tcav.interpret(images, [[concept(0), concept(1)]], target=1)
    tcav = TCAV(small_net, ["conv3"], save_path=str(tmp_path / "theirs"))
    assert tcav.interpret(images, [[concept(0), concept(1)]], target=1)


def test_wrappers_take_what_the_wrapped_method_takes(small_net):
    activation = captum.attr.LayerActivation(small_net, small_net.conv3)
    assert takes_keyword(captum.attr.LayerGradCam(small_net, small_net.conv3), "target")
    assert not takes_keyword(activation, "target")
    assert takes_keyword(activation, "additional_forward_args")
    tunnel = captum.attr.NoiseTunnel(captum.attr.IntegratedGradients(small_net))
    assert takes_keyword(tunnel, "n_steps")
    assert not takes_keyword(tunnel, "sliding_window_shapes")
