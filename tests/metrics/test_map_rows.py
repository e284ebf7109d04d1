"""Maps as rows: which dimension holds the channels, what is constant, what is not finite."""

import torch

from captum_extract_aggregate.metrics import map_rows


def test_channels_and_positions():
    for shape, rows in (((2, 9), 9), ((2, 3, 4), 12), ((2, 5, 3, 4), 12), ((2, 5, 2, 3, 4), 24)):
        t = torch.rand(shape)
        own = t.sum(1) if len(shape) > 3 else t
        assert torch.equal(map_rows.map_rows(t), own.reshape(2, rows))
    assert map_rows.map_positions(torch.rand(2, 5, 9), dims=1).shape == (2, 9)
    assert map_rows.map_positions(torch.rand(2, 4, 5, 6), dims=3).shape == (2, 4, 5, 6)


def test_rounding_is_no_map_and_what_is_not_finite_is_no_number():
    t = torch.rand(3, 6)
    t[1] = 0.1 + torch.rand(6) * 1e-8
    t[2, 3] = torch.inf
    rows = map_rows.map_rows(t)
    assert torch.equal(rows[0], t[0])
    assert (rows[1] == t[1, 0]).all()
    assert rows[2].isnan().all()
    resized = map_rows.resized(torch.full((1, 3, 3), 0.1), (7, 7))
    assert (resized == resized[0, 0, 0]).all()


def test_sorted_elsewhere(elsewhere):
    rows = torch.randn(3, 50)
    expected = map_rows.sorted_rows(rows)
    asked = elsewhere()
    assert torch.equal(map_rows.sorted_rows(rows), expected)
    assert "metrics.map_rows" in asked
