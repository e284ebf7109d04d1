"""Each class's score against the nearest: the literal contrast of every class, and ties."""

import pytest
import torch

from captum_extract_aggregate._common.nearest_contrast import nearest_contrast
from tests.reference.cams import finer_score


@pytest.mark.parametrize("references", [1, 2, 3, 6, 50])
def test_every_class_has_the_literal_contrast(references):
    z = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(references), requires_grad=True)
    found = nearest_contrast(z, 0.7, references)
    for i, c in torch.cartesian_prod(torch.arange(4), torch.arange(7)).tolist():
        expected = finer_score(z[i], c, 0.7, references)
        torch.testing.assert_close(found[i, c], expected, rtol=1e-12, atol=1e-12)
        got, wanted = (torch.autograd.grad(t, z, retain_graph=True)[0] for t in (found[i, c], expected))
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_equal_scores_are_no_reason_to_depend_on_others():
    z = torch.tensor([[1.0, 1.0, 1.0, 1.0, 5.0], [0.0, 3.0, 6.0, 9.0, 1.0]])
    found = nearest_contrast(z, 1.0, 2)
    torch.testing.assert_close(found[0], torch.tensor([0.0, 0.0, 0.0, 0.0, 4.0]))
    assert torch.equal(found, torch.cat([nearest_contrast(row[None], 1.0, 2) for row in z]))
