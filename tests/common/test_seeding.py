"""Whatever is drawn comes from a seed, and leaves the user's own random state as it was."""

import types

import torch

from captum_extract_aggregate._common.seeding import generator_of_gpu, random_state
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
    generator_of_gpu.cache_clear()
