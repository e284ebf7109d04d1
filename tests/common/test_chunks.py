"""Sums over channels, a few of them at a time."""

import torch

from captum_extract_aggregate._common import chunks


def test_pieces(elsewhere):
    t = torch.randn(2, 300, 40, 50)
    shares = lambda x: x.square().sum(1, keepdim=True)  # noqa: E731
    assert len(chunks.channel_chunks(t, 1)) > 1
    expected = chunks.over_channels(shares, t)
    elsewhere()
    assert len(chunks.channel_chunks(t, 1)) == 1
    torch.testing.assert_close(chunks.over_channels(shares, t), expected)
