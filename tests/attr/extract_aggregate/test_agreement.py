"""How much the virtual identity layer changes NormGrad."""

import pytest
import torch

import captum_extract_aggregate as cea


@pytest.mark.parametrize("name", ["vgg", "resnet"])
def test_the_virtual_identity_changes_little(name):
    """R20, appendix B: .94 to .995 on ResNet-50 and VGG-16."""
    from scipy.stats import spearmanr

    net = cea.load_scene_model(name)
    layers = {
        "vgg": ["features.2", "features.7", "features.12", "features.17"],
        "resnet": [f"layer{i}.conv1" for i in range(1, 5)],
    }[name]
    scenes = [cea.DigitScenes(16, seed=4)[i] for i in range(16)]
    images = torch.stack([image for image, _ in scenes])
    labels = [int(target["labels"][0]) for _, target in scenes]
    agreement = cea.virtual_identity_agreement(net, layers, images, labels)
    assert agreement.shape == (4, 16)
    print(name, [f"{row.mean():.3f} +- {row.std():.3f}" for row in agreement])
    assert agreement.mean() > 0.85
    virtual = cea.NormGrad(net, layers[2]).attribute(images[:1], labels[0])
    real = cea.NormGrad(net, layers[2], virtual_identity=False).attribute(images[:1], labels[0])
    assert agreement[2, 0] == pytest.approx(spearmanr(virtual.flatten(), real.flatten())[0], abs=1e-9)
    constant = cea.virtual_identity_agreement(lambda x: net(x) * 0, [net.get_submodule(layers[0])], images[:1], 1)
    assert constant.isnan().all()
