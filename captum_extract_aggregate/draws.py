"""Whatever is drawn comes from a seed, and leaves the user's own random state as it was."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from captum_extract_aggregate.state import keep_generators
from captum_extract_aggregate.undo import ProcessWide, Undo

_PYTHON = ProcessWide(random.getstate, random.setstate)
_NUMPY = ProcessWide(np.random.get_state, np.random.set_state)  # type: ignore[arg-type]


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's, NumPy's and torch's global generators begin with a seed, and come back as they were."""
    with Undo() as undo, undo:
        _PYTHON.keep(undo)
        _NUMPY.keep(undo)
        keep_generators(undo, range(torch.cuda.device_count()))
        seed_all(seed)
        yield


def seed_all(seed: int) -> None:
    """Python's, NumPy's and torch's global generators begin with a seed."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
