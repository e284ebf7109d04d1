"""Which methods share a pass."""

import captum.attr
import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.shared_pass import capturing, pass_of, shared_maps


def test_ours_and_combinations_of_ours_are_captured(small_net):
    plain = cea.NormGrad(small_net, ["conv1", "conv3"])
    assert capturing(plain) is plain
    assert capturing(cea.LayerCombination(plain)) is plain
    assert capturing(captum.attr.LayerGradCam(small_net, small_net.conv3)) is None
    assert capturing(type("Own", (cea.NormGrad,), {"attribute": lambda self, x: x})(small_net, "conv3")) is None


def test_passes_are_told_apart_by_what_they_do(small_net):
    plain = pass_of(cea.NormGrad(small_net, "conv3"))
    assert plain == pass_of(cea.GradCAM(small_net, "conv1"))
    assert plain != pass_of(cea.GuidedBackprop(small_net, "conv3"))
    assert plain != pass_of(cea.NormGrad(lambda x: small_net(x), small_net.conv3))


def test_targets_may_follow_from_the_scores(small_net, images):
    plain = cea.NormGrad(small_net, ["conv1", "conv3"])
    both = {"maps": plain, "one": cea.LayerCombination(plain)}
    seen = []

    def best(output):
        seen.append(output)
        return [output.argmax(1), 2]

    found = shared_maps(both, images, best, None, to_input=False)
    assert len(seen) == 1
    for of, target in zip(found, (seen[0].argmax(1), 2), strict=True):
        for name, method in both.items():
            torch.testing.assert_close(of[name], method.attribute(images, target=target), rtol=0, atol=0)
