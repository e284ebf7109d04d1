"""Whatever is drawn comes from a seed, and leaves the user's own random state as it was."""

import random
import types

import numpy as np
import pytest
import torch

from captum_extract_aggregate._common import seeding
from captum_extract_aggregate._common.seeding import (
    generator_of_gpu,
    random_state,
    same_draws,
    seed_all,
    seed_torch,
    seeded,
)
from captum_extract_aggregate._common.undo import Undo


def test_a_pass_keeps_the_state_of_the_generators_of_its_gpus(monkeypatch):
    kept = []
    for name in ("get_rng_state", "set_rng_state"):
        monkeypatch.setattr(torch.cuda, name, lambda *args, name=name: kept.append((name, *args)) or args[-1])
    lies = lambda *where: types.SimpleNamespace(device=torch.device(*where))  # noqa: E731
    generator_of_gpu.cache_clear()
    with Undo() as undo, undo:
        random_state(undo, [lies("cuda", 1), lies("cpu"), lies("cuda", 0), lies("cuda", 1)])
        assert kept == [("get_rng_state", 0), ("get_rng_state", 1)]
    assert sorted(kept[2:]) == [("set_rng_state", 0, 0), ("set_rng_state", 1, 1)]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    del kept[:]
    with Undo() as undo, undo:
        random_state(undo, [lies("cuda", 1)])
    assert kept == []  # the graph's own
    generator_of_gpu.cache_clear()


def drawn():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_equal_seeds_draw_equal_numbers_everywhere():
    found = []
    for seed in (5, 5, 6):
        with seeded(seed):
            found.append(drawn())
    assert found[0] == found[1]
    assert all(a != b for a, b in zip(found[0], found[2]))
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    assert drawn() == found[0]


def test_the_user_s_own_state_comes_back():
    seed_all(1)
    expected = [drawn(), drawn()]
    seed_all(1)
    found = [drawn()]
    with pytest.raises(ZeroDivisionError), seeded(2):
        raise ZeroDivisionError(drawn())
    found.append(drawn())
    assert found == expected


def test_a_seed_may_be_larger_than_numpy_takes():
    found = []
    for seed in (2**40 + 3, 2**40 + 3, 2**40 + 4):
        seed_all(seed)
        found.append(drawn())
    assert found[0] == found[1]
    assert all(a != b for a, b in zip(found[0], found[2]))


def test_a_pass_on_the_cpu_leaves_torch_s_state():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with Undo() as undo, undo:
        random_state(undo, [torch.zeros(1)])
        torch.rand(7)
    assert torch.equal(torch.rand(2), expected)


def test_seeds_leave_no_notes_for_accelerators_that_are_not_there(monkeypatch):
    monkeypatch.setattr(seeding, "_has_accelerator", lambda: False)
    noted = len(torch.cuda._queued_calls)
    with seeded(5):
        assert len(torch.cuda._queued_calls) == noted
        first = torch.rand(3)
    with seeded(4):
        torch.manual_seed(5)
        assert torch.equal(first, torch.rand(3))


def test_accelerators_are_seeded_where_they_are(monkeypatch):
    asked = []
    monkeypatch.setattr(seeding, "_has_accelerator", lambda: True)
    monkeypatch.setattr(torch, "manual_seed", asked.append)
    seed_torch(7)
    assert asked == [7]


def test_what_comes_next_draws_the_same():
    with Undo() as undo, undo:
        same_draws(undo, [torch.zeros(1)])
        first = drawn()
    assert drawn() == first
