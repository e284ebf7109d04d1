"""What is sent from the score arrives, or is reported as lost."""

import math

import pytest
import torch

import captum_extract_aggregate as cea
from tests.attr.propagation.cases import NETWORKS, TARGET, network, pictures
from tests.conftest import relative_error


@pytest.mark.parametrize("name", NETWORKS)
def test_conservation(name):
    """What does not arrive is reported; with `lost="spread"` everything does: 1, or the logit."""
    net = network(name)
    x = pictures(net)
    logits = net(x).detach()[:, TARGET]
    published, gap = cea.ExcitationBackprop(net).attribute(x, target=TARGET, return_convergence_delta=True)
    # Where addends nearly cancel, shares are large, and rounding with them.
    torch.testing.assert_close(published.sum((1, 2, 3)) - 1, gap, rtol=0, atol=1e-8)
    relevance = cea.LRP(net, gamma=math.inf).attribute(x, target=TARGET)
    assert relative_error(published * logits[:, None, None, None], relevance) < 1e-9
    for lost in ("spread", "drop"):
        calm = cea.ExcitationBackprop(net, sums="positive", lost=lost).attribute(x, target=TARGET)
        assert (calm >= -1e-12).all() or "convnext" in name
        missing = 1 - calm.sum((1, 2, 3))
        assert missing.min() > -1e-10
        assert lost == "drop" or missing.max() < 1e-10
