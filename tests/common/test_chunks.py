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


def test_pieces_are_views_that_together_are_the_tensor(monkeypatch):
    monkeypatch.setattr(chunks, "_CHUNK", 24)
    t = torch.arange(120.0).reshape(2, 5, 3, 4)
    for dim, sizes in ((1, [1] * 5), (0, [1, 1]), (3, [1] * 4)):
        pieces = chunks.channel_chunks(t, dim)
        assert [piece.shape[dim] for piece in pieces] == sizes
        assert torch.equal(torch.cat(pieces, dim), t)
        assert all(piece.untyped_storage().data_ptr() == t.untyped_storage().data_ptr() for piece in pieces)
    monkeypatch.setattr(chunks, "_CHUNK", 48)  # two channels of 24 numbers
    assert [piece.shape[1] for piece in chunks.channel_chunks(t, 1)] == [2, 2, 1]


def test_what_a_cache_holds_is_left_whole(monkeypatch):
    monkeypatch.setattr(chunks, "_CHUNK", 60)
    t = torch.randn(2, 5, 3, 4)
    assert chunks.channel_chunks(t, 1) == (t,)  # 120 numbers are twice a piece, and no more


def test_a_sum_over_channels_is_of_all_tensors_at_once(monkeypatch):
    x, g = (torch.randn(2, 5, 3, 4, dtype=torch.float64) for _ in range(2))
    kept, met = x.clone(), []

    def share(a, b):
        met.append(a.shape[1])
        return (a * b).sum(1)

    monkeypatch.setattr(chunks, "_CHUNK", 48)
    torch.testing.assert_close(chunks.over_channels(share, x, g), torch.einsum("nkhw,nkhw->nhw", x, g))
    assert met == [2, 2, 1]
    assert torch.equal(x, kept)
