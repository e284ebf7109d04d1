"""The processes that share an evaluation: one, or as many as torchrun has started."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from captum_extract_aggregate._common.errors import InvalidValueError

_PATIENCE = timedelta(days=30)  # the first to end waits for the last


class Workers:
    """Stands for this process and the others; `with` it, the group exists (gloo on CPUs, NCCL on GPUs)."""

    def __init__(self, device: str) -> None:
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if not 0 <= self.rank < self.world:
            raise InvalidValueError(
                f"RANK is {self.rank} of WORLD_SIZE {self.world}; expected both as torchrun sets them, or none"
            )
        self.device = _device(device)
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        self._owns_group = False

    @property
    def leads(self) -> bool:
        """Whether this process is the one that speaks."""
        return self.rank == 0

    def __enter__(self) -> Workers:
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if self.world > 1 and not dist.is_initialized():
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            dist.init_process_group(
                backend, timeout=_PATIENCE, store=_store(self.world), rank=self.rank, world_size=self.world
            )
            self._owns_group = True
        return self

    def wait(self) -> None:
        """Waits until all processes have come here."""
        if self.world > 1:
            dist.barrier()

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if not self._owns_group:
            return
        if kind is None:
            time.sleep(0.5)  # torch 2.3 deadlocks where a group goes while its thread still frees the last barrier
        dist.destroy_process_group()


def set_threads(number: int) -> None:
    """Sets the number of threads; raises our error for more than a machine can start."""
    most = max(64, 4 * (os.cpu_count() or 1))
    if number > most:
        raise InvalidValueError(
            f"run.threads is {number}; expected at most {most} (this machine has {os.cpu_count()} cores)"
        )
    torch.set_num_threads(number)


def _device(name: str) -> torch.device:
    expected = "expected cpu, cuda, cuda:0 or another of torch's devices that this machine has"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InvalidValueError(f"run.device is {name!r}; {expected}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidValueError(
            f"run.device is {name!r}, but torch sees no GPU; expected cpu, or a torch built for your GPU"
        )
    if device.type == "cuda":
        if (device.index or 0) >= torch.cuda.device_count() > 0:
            raise InvalidValueError(
                f"run.device is {name!r}, but torch sees {torch.cuda.device_count()} GPUs; {expected}"
            )
        return device
    try:
        torch.zeros(1, device=device).tolist()
    except Exception as error:  # whatever a device raises that is not there, or that (as meta) holds no numbers
        reason = " ".join(str(error).split())[:120]
        raise InvalidValueError(f"run.device is {name!r}, which cannot be used here ({reason}); {expected}") from None
    return device


def _store(world: int) -> Store | None:
    """Returns where the processes meet: torchrun's own store, with keys of this attempt alone.

    After a restart the store may still hold the addresses of the processes that are gone.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"attempt {attempt}", TCPStore(address, port, world, is_master=False))
