"""Wrong uses: each line that is marked has to be an error to both type checkers, and no other line may be."""

import torch
from torch import nn

import captum_extract_aggregate as cea

net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
x = torch.zeros(1, 3, 8, 8)

cea.NormGrad(net, "0").attribute(x, targt=1)  # wrong
cea.NormGrad(net, "0").attribute(x, target="dog")  # wrong
cea.NormGrad(net, "0").attribute()  # wrong
cea.NormGrad(net, 3)  # wrong
cea.NormGrad(net, "0", [0], False)  # wrong
cea.NormGrad(net, "0", virtual_identity="no")  # wrong
cea.ExtractAggregate(net, "0", aggregate="nrom")  # wrong
cea.ExtractAggregate(net, "0", extract="conv2x2")  # wrong
cea.ExtractAggregate(net, "0", layout="NHWC")  # wrong
cea.LayerGradient(net, "0", aggregate="nrom")  # wrong
cea.GradCAM(net, "0").attribute(x, relu_attribution=False)  # wrong
cea.GradCAMPos(net, "0", positive="both")  # wrong
cea.GuidedBackprop(net, aggregate="nrom")  # wrong
cea.LRP(net, sums="sined")  # wrong
cea.LRP(net, lost="spred")  # wrong
cea.LRP(net).attribute(x, verbose=True)  # wrong
cea.ContrastiveExcitationBackprop(net, clamp="contrst")  # wrong
cea.FullGrad(net, rescale="chanel_joint")  # wrong
cea.LayerCombination(cea.NormGrad(net, ["0"]), mode="prodct")  # wrong
cea.LayerCombination(cea.NormGrad(net, ["0"]), weights="linar")  # wrong
cea.LayerCombination(cea.NormGrad(net, ["0"])).attribute(x, target="dog")  # wrong
cea.MetaSaliency(cea.NormGrad(net, "0"), loss_func="cross-entropy")  # wrong
cea.NormGrad(net, "0").attribute(x, target=1).append(x)  # wrong
cea.NormGrad(net, ["0"]).attribute(x, target=1).shape  # noqa: B018  # wrong
