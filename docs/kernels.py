"""Fresh kernels that start at once.

Most pages run for less time than their imports take. Here one process imports what they all import, and each kernel
is a fork of it, in which nothing has run yet.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from importlib.metadata import EntryPoint
from typing import Any

import matplotlib
from ipykernel.kernelapp import launch_new_instance
from jupyter_client.provisioning import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

_FORKS = multiprocessing.get_context("forkserver")
_IMPORTED = [__name__, "matplotlib.pyplot", "torchvision", "captum_extract_aggregate.metrics"]


def start_at_once() -> None:
    """Lets all kernels that this process starts from now on be forks."""
    _FORKS.set_forkserver_preload(_IMPORTED)
    factory = KernelProvisionerFactory.instance()
    factory.provisioners["forked"] = EntryPoint("forked", f"{__name__}:ForkedKernel", factory.GROUP_NAME)
    factory.default_provisioner_name = "forked"


class ForkedKernel(LocalProvisioner):
    """Starts a kernel as a fork instead of as a program."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Starts what the command would: `python -m ipykernel_launcher` with its options."""
        options = cmd[cmd.index("ipykernel_launcher") + 1 :]
        process = _Process(target=_serve, args=(options, kwargs["env"], kwargs["cwd"]))
        process.start()
        self.process, self.pid, self.cwd = process, process.pid, kwargs["cwd"]
        return self.connection_info


class _Process(_FORKS.Process):  # type: ignore[name-defined, misc]
    """Looks as the program that a kernel otherwise is (`subprocess.Popen`)."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self) -> int | None:
        self.join()
        return self.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def _serve(options: list[str], environment: dict[str, str], folder: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the process that is forked ignores it
    os.environ.update(environment)
    os.chdir(folder)
    matplotlib.rcParams["backend"] = "module://matplotlib_inline.backend_inline"
    launch_new_instance(argv=[*options, f"--IPKernelApp.parent_handle={os.getppid()}", "--log-level=40"])
