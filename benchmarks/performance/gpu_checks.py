"""What a GPU alone can show: hidden synchronisation, compiled models, captured graphs, and a long stream of images."""

from __future__ import annotations

import contextlib
import copy
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

import captum_extract_aggregate as cea
from benchmarks.performance.floor import DEVICE, gradients, stages
from benchmarks.performance.gpu_setting import Case, Failure, Setting
from benchmarks.performance.timing import Row, row, rows_in_turns, seconds
from captum_extract_aggregate.attr.by_name import METHODS, make_method

ATTENTIVE = ("legrad", "gradient-weighted-attention", "attention-rollout")


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Within, whatever makes the host wait for the GPU raises an error."""
    if DEVICE != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def waits(setting: Setting) -> Case:
    """Every method by name, at the layers that suit it, on a network that it has met."""
    section = "Hidden synchronisation"

    def run() -> Iterator[Row | Failure]:
        x, size = setting.images(2), setting.size
        convolutions = setting.network(setting.small)
        transformer = VisionTransformer(size, size // 2, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=32)
        nn.init.normal_(transformer.heads.head.weight)  # which torchvision starts with zeros
        tried = waiting = 0
        for name in METHODS:
            model = transformer.eval().to(DEVICE) if name in ATTENTIVE else convolutions
            try:
                method = _ready(name, model, x)
            except Exception as error:  # and the next method's turn
                yield Failure.of(section, f"{name}, before it is watched", error)
                continue
            tried += 1
            try:
                with no_waiting():
                    method.attribute(x, target=3)
            except Exception as error:  # and the next method's turn
                waiting += 1
                yield Failure.of(section, name, error)
        case = f"methods that wait for the device, of {tried}"
        yield Row(section, case, waiting, waiting, waiting, 1, limit=0, unit="")

    return Case(section, "every method", run)


def _ready(name: str, model: nn.Module, x: Tensor) -> Any:
    """Returns a method that has met the network."""
    layers = METHODS[name].suited_layers(model, x, most=4)
    method = make_method(name, model, list(layers.values()) if layers is not None else stages(model, 4))
    method.attribute(x, target=3)
    return method


def stream(setting: Setting) -> Case:
    """Many images, from pinned memory, against the bare passes over them; memory after the first block and the last."""

    def run() -> Iterator[Row | Failure]:
        dtype, batch = setting.dtypes[-1], setting.stream_batch
        name = "mobilenet_v2" if "mobilenet_v2" in setting.networks else setting.networks[0]
        model = setting.network(name, dtype)
        places = stages(model, 4)
        pinned = torch.cuda.is_available()
        held = [torch.randn(batch, 3, setting.size, setting.size, dtype=dtype) for _ in range(4)]
        held = [x.pin_memory() for x in held] if pinned else held
        method, buffer = cea.NormGrad(model, places), held[0].to(DEVICE)
        bare = gradients(model, buffer, places)
        per_block = setting.stream_images // setting.stream_batch // setting.stream_blocks

        def explaining() -> None:
            for i in range(per_block):
                method.attribute(held[i % 4].to(DEVICE, non_blocking=True), target=3)

        def passing() -> None:
            for i in range(per_block):
                buffer.copy_(held[i % 4], non_blocking=True)
                bare()

        yield from _streamed(setting, name, explaining, passing, per_block * batch)

    return Case("A stream of images", "NormGrad at 4 layers", run)


def _streamed(
    setting: Setting, name: str, explaining: Callable[[], None], passing: Callable[[], None], images: int
) -> Iterator[Row]:
    """Blocks of the stream in turns."""
    section, memory = "A stream of images", []
    ours, floor = [], []
    explaining(), passing()  # a block more, which is not counted
    for _ in range(setting.stream_blocks):
        ours.append(seconds(explaining))
        memory.append(torch.cuda.memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0)
        floor.append(seconds(passing))
    total = images * setting.stream_blocks
    speed = images / statistics.median(ours)
    case = f"{total} images, {name}, NormGrad at 4 layers over the bare passes, batch {setting.stream_batch}"
    found = sorted(a / b for a, b in zip(ours, floor))
    yield row(section, case, found, limit=1.1, note=f"{speed:.0f} images per second")
    grown = memory[-1] - memory[0]
    yield Row(section, "memory that is held more after them", grown, grown, grown, 1, limit=1, unit="MiB")


def compiled(setting: Setting) -> Case:
    """A compiled model is explained, nothing is compiled anew by it, and it runs compiled afterwards."""

    def run() -> Iterator[Row | Failure]:
        import torch._dynamo as dynamo

        section, model, x = "Compiled models", copy.deepcopy(setting.network(setting.small)), setting.images(2)
        places = stages(model, 4)
        expected = cea.NormGrad(model, places).attribute(x, target=3)
        dynamo.reset()
        dynamo.utils.counters.clear()
        fast = torch.compile(model, backend="eager")

        def graphs() -> dict[str, int]:
            counters = dynamo.utils.counters
            return {"graphs": counters["stats"]["unique_graphs"], "breaks": sum(counters["graph_break"].values())}

        with torch.no_grad():
            fast(x)
            before = graphs()
            maps = cea.NormGrad(fast, places).attribute(x, target=3)
            fast(x)
        for a, b in zip(maps, expected):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
        for what, count in graphs().items():
            more = count - before[what]
            yield Row(section, f"{what} that explaining adds", more, more, more, 1, limit=0, unit="")
        yield Row(section, "graphs of the model itself", before["graphs"], 0, 0, 1, unit="")
        dynamo.reset()

    return Case("Compiled models", "graphs and breaks", run)


def captured(setting: Setting) -> Case:
    """A call that is captured as a CUDA graph gives, replayed on other images, their maps."""

    def run() -> Iterator[Row | Failure]:
        if DEVICE != "cuda":
            return
        section, model, x = "CUDA graphs", setting.network(setting.networks[0]), setting.images(1)
        method = cea.NormGrad(model, stages(model, 4))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                method.attribute(x, target=3)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            maps: list[Tensor] = method.attribute(x, target=3)
        x.copy_(x.flip(-1))
        graph.replay()
        for a, b in zip(maps, method.attribute(x, target=3)):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
        sides = {"call": partial(method.attribute, x, target=3), "replayed": graph.replay}
        yield from rows_in_turns(section, f"NormGrad, {setting.networks[0]}, batch 1, 4 layers", sides, **setting.how)

    return Case("CUDA graphs", "NormGrad", run)
