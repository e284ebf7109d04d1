"""Run by torchrun: accumulators over two processes against one."""

import time

import torch
import torch.distributed as dist

from captum_extract_aggregate.metrics import PointingGame, RestrictedPointingGame, ValueSummary


def filled(indices, **kwargs):
    generator = torch.Generator().manual_seed(0)
    maps, masks = torch.rand(20, 1, 12, 12, generator=generator), torch.rand(20, 12, 12, generator=generator) > 0.98
    classes = torch.randint(0, 3, (20,), generator=generator)
    values = torch.rand(20, generator=generator).masked_fill(torch.arange(20) % 7 == 0, torch.nan)
    game, restricted = PointingGame(3, tolerance=2, **kwargs), RestrictedPointingGame(3, tolerance=2, **kwargs)
    summary = ValueSummary(**kwargs)
    for i in indices:
        game.update(maps[i : i + 1], masks[i : i + 1], classes[i : i + 1], [bool(i % 2)])
        restricted.update(maps[i : i + 1], [masks[i : i + 1]], [[int(classes[i])]])
        summary.update(values[i : i + 1])
    return game, restricted, summary


def main():
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    for one, both in zip(filled(range(20), sync_on_compute=False), filled(range(rank, 20, world))):
        single, shared = one.compute(), both.compute()
        for name, value in single.items():
            assert torch.equal(value.nan_to_num(-1), shared[name].nan_to_num(-1)), (name, value, shared[name])
    print("the same", flush=True)
    time.sleep(1)  # torch 2.3 deadlocks where a group is destroyed while its thread still frees a gathered tensor
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
