"""Values of many images: undefined ones are counted, never taken for zero."""

import math

import numpy as np
import pytest
import torch

from captum_extract_aggregate.metrics import ValueSummary


def test_summary():
    summary = ValueSummary()
    assert summary.compute()["mean"].isnan()
    summary.update(torch.tensor([1.0, math.nan]))
    summary.update(torch.tensor([3.0, 8.0], dtype=torch.float32))
    result = summary.compute()
    assert [float(result[k]) for k in ("mean", "median", "n", "undefined")] == [4, 3, 3, 1]
    assert float(result["std"]) == pytest.approx(np.std([1, 3, 8], ddof=1))
