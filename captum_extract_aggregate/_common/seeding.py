"""Whatever is drawn comes from a seed, and leaves the user's own random state as it was."""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_extract_aggregate._common.undo import ProcessWide, Undo

_PYTHON = ProcessWide(random.getstate, random.setstate)
_NUMPY = ProcessWide(np.random.get_state, np.random.set_state)  # type: ignore[arg-type]
_TORCH = ProcessWide(torch.get_rng_state, torch.set_rng_state)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds Python's, NumPy's and torch's global generators, and brings them back as they were."""
    with Undo() as undo, undo:
        _PYTHON.keep(undo)
        _NUMPY.keep(undo)
        keep_generators(undo, all_gpus())
        seed_all(seed)
        yield


def seed_all(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    seed_torch(seed)


def seed_torch(seed: int) -> None:
    """Seeds torch's global generators.

    Without an accelerator `torch.manual_seed` notes each seed, with a traceback, for the day when there is one: the
    notes take longer than the seeding, and more memory with every image.
    """
    if _has_accelerator():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@functools.cache
def _has_accelerator() -> bool:
    kinds: list[Any] = [torch.cuda, torch.backends.mps, getattr(torch, "xpu", None), getattr(torch, "mtia", None)]
    return any(kind.is_available() for kind in kinds if hasattr(kind, "is_available"))


def all_gpus() -> range:
    """Returns the numbers of the GPUs; where there is none, torch looks for a driver each time that it is asked."""
    return range(torch.cuda.device_count() if _has_accelerator() else 0)


@functools.cache
def generator_of_gpu(index: int) -> ProcessWide:
    read = functools.partial(torch.cuda.get_rng_state, index)
    return ProcessWide(read, lambda state: torch.cuda.set_rng_state(state, index))


def random_state(undo: Undo, tensors: Iterable[Tensor]) -> None:
    """Leaves the generators as they were after a pass that draws random numbers (dropout in train mode)."""
    keep_generators(undo, _gpus_of(tensors))


def states_of_generators(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Returns the states of the generators that a pass on these tensors draws from."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(index) for index in _gpus_of(tensors) if not _captures())]


def _gpus_of(tensors: Iterable[Tensor]) -> set[int]:
    return {t.device.index for t in tensors if t.device.type == "cuda"}


def _captures() -> bool:
    """Tells whether a CUDA graph is captured: then a GPU's generator belongs to the graph, and cannot be read."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def same_draws(undo: Undo, tensors: Iterable[Tensor]) -> None:
    """Brings all generators, Python's and NumPy's too, back at the end, so that what comes then draws the same."""
    _PYTHON.keep(undo)
    _NUMPY.keep(undo)
    random_state(undo, tensors)


def keep_generators(undo: Undo, gpus: Iterable[int]) -> None:
    """Brings the generators of the CPU and of some GPUs back at the end."""
    _TORCH.keep(undo)
    for index in gpus:
        if not _captures():
            generator_of_gpu(index).keep(undo)
