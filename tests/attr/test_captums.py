"""Captum's own classes by name, and how many layers a class takes."""

import pytest

from captum_extract_aggregate.attr.by_name import make_method


def test_captum_s_classes_that_need_more_than_their_name(small_net, images):
    for name, needed in {
        "NoiseTunnel": "attribution_method",
        "GradientShap": "baselines",
        "LayerDeepLiftShap": "baselines",
        "Occlusion": "sliding_window_shapes",
        "NeuronGradient": "neuron_selector",
    }.items():
        with pytest.raises(ValueError, match=rf"'captum:{name}', which needs more .*{needed}.*captum:Saliency"):
            make_method(f"captum:{name}", small_net, [small_net.conv3])
    for name in ("LayerAttribution", "GradientAttribution", "ClassSummarizer", "visualization", "Nothing"):
        with pytest.raises(ValueError, match=rf"'captum:{name}', which is unknown"):
            make_method(f"captum:{name}", small_net, [small_net.conv3])
    assert make_method("captum:Saliency", small_net, []).attribute(images, target=1).shape == images.shape
