"""Maps with their convergence delta."""

import torch

import captum_extract_aggregate as cea


def test_delta_with_the_maps(small_net, images):
    for method in (cea.ActivityAttribution(small_net, "relu2"), cea.FullGrad(small_net)):
        maps, delta = method.attribute(images, 1, return_convergence_delta=True)
        assert torch.equal(maps, method.attribute(images, 1))
        assert torch.equal(delta, method.compute_convergence_delta(images, 1))
        from captum.attr import NoiseTunnel

        smooth, deltas = NoiseTunnel(method).attribute(
            images, nt_samples=2, stdevs=0.0, target=1, return_convergence_delta=True
        )
        assert torch.allclose(smooth, maps, rtol=1e-4, atol=1e-6)
        assert deltas.shape == (6,)
