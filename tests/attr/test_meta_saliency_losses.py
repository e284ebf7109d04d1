"""The losses of meta-saliency's step."""

import pytest
import torch
import torch.nn.functional as F

from captum_extract_aggregate.attr.meta_saliency_losses import LOSSES

LOGITS = torch.tensor([[0.5, -1.0, 2.0]])


@pytest.mark.parametrize("target", [2, [2], torch.tensor([2]), (2,)])
def test_cross_entropy_of_the_target_s_class_against_all_others(target):
    expected = F.cross_entropy(LOGITS, torch.tensor([2]))
    torch.testing.assert_close(LOSSES["cross_entropy"](LOGITS, target), expected)


def test_cross_entropy_at_one_place_of_dense_outputs():
    dense = torch.randn(1, 3, 4, 5)
    expected = F.cross_entropy(dense[:, :, 2, 3], torch.tensor([1]))
    torch.testing.assert_close(LOSSES["cross_entropy"](dense, (1, 2, 3)), expected)


def test_binary_cross_entropy_of_the_target_s_logit_alone():
    expected = F.binary_cross_entropy_with_logits(LOGITS[0, 1], torch.tensor(1.0))
    torch.testing.assert_close(LOSSES["binary_cross_entropy"](LOGITS, 1), expected)


def test_a_single_output_is_a_logit_of_its_own_class():
    single = torch.tensor([[0.5]])
    assert LOSSES["cross_entropy"](single, 0) == LOSSES["binary_cross_entropy"](single, 0) == -F.logsigmoid(single)


def test_several_scores_need_a_target_and_probabilities_are_refused():
    with pytest.raises(ValueError, match="target is None, and forward_func gives several"):
        LOSSES["cross_entropy"](LOGITS, None)
    probability = torch.tensor([[0.5]], requires_grad=True).sigmoid()
    with pytest.raises(ValueError, match="comes out of a sigmoid"):
        LOSSES["binary_cross_entropy"](probability, 0)
