"""What code of one's own does to the model, to tensors and to the process changes no other number."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from captum_extract_aggregate.evaluation.guard import Keeper, undisturbed
from tests.evaluation.plans import HERE, dump, evaluated, tiny_net

CODE = """
import os, sys
import numpy as np
import torch
from torch import nn

def measured(maps, inputs, targets, model):
    return maps.double().flatten(1).sum(1)

def maps_in_place(maps, inputs, targets, model):
    maps.clamp_(max=0)
    return maps.flatten(1).sum(1)

def inputs_in_place(maps, inputs, targets, model):
    inputs.mul_(0)
    return maps.flatten(1).sum(1)

def targets_in_place(maps, inputs, targets, model):
    targets.fill_(0)
    return maps.flatten(1).sum(1)

def zeroed(maps, inputs, targets, model):
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    return maps.flatten(1).sum(1)

def zeroed_data(maps, inputs, targets, model):
    for p in model.parameters():
        p.data.zero_()
        p.requires_grad_(False)
    return maps.flatten(1).sum(1)

def replaced(maps, inputs, targets, model):
    model.fc = nn.Linear(4, 20)
    model.conv1.weight = nn.Parameter(torch.zeros(6, 3, 3, 3))
    model.forward = lambda x: x.flatten(1)[:, :20]
    return maps.flatten(1).sum(1)

def hooked(maps, inputs, targets, model):
    model.conv2.register_forward_hook(lambda module, args, output: output * 0)
    nn.modules.module.register_module_forward_hook(lambda module, args, output: output * 2 if module is model else None)
    return maps.flatten(1).sum(1)

def trained(maps, inputs, targets, model):
    model.train()
    model.requires_grad_(True)
    torch.set_grad_enabled(True)
    model(inputs).sum().backward()
    model.conv1.stride = (3, 3)
    return maps.flatten(1).sum(1)

def process_wide(maps, inputs, targets, model):
    torch.manual_seed(5), np.random.seed(5)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.set_default_device("meta")
    torch.set_num_threads(2)
    np.seterr(all="raise")
    os.chdir("/")
    return maps.flatten(1).sum(1)

def drawn(maps, inputs, targets, model):
    return torch.rand(len(maps)) + float(np.random.rand())

def broken(maps, inputs, targets, model):
    model.conv1.weight.data.zero_()
    raise KeyError("out of order")

def leaving(maps, inputs, targets, model):
    sys.exit(3)

def silent(maps, inputs, targets, model):
    assert False

def hungry(maps, inputs, targets, model):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

def many(maps, inputs, targets, model):
    return [1.0]

def complex_(maps, inputs, targets, model):
    return torch.complex(maps, maps).flatten(1).sum(1)

def keeps_arguments(maps, inputs, targets, model, numbers=()):
    numbers.append(len(numbers))
    return torch.full((len(maps),), float(len(numbers)))
"""
HARM = [
    "maps_in_place",
    "inputs_in_place",
    "targets_in_place",
    "zeroed",
    "zeroed_data",
    "replaced",
    "hooked",
    "trained",
    "process_wide",
]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    file = tmp_path_factory.mktemp("own") / "own.py"
    file.write_text(CODE)
    return file


def changes(own, *names):
    """Built-in measures on both sides of one's own."""
    return {
        "model": {"name": f"{HERE}:tiny_net"},
        "data": {"kind": "custom", "dataset": f"{HERE}:tensors_with_pairs"},
        "layers": ["conv1", "conv2"],
        "measures": [
            {"measure": "class_sensitivity"},
            *({"measure": f"{own}:{name}", "label": name} for name in names),
            {"measure": f"{own}:measured", "label": "measured"},
            {"measure": f"{own}:drawn", "label": "drawn"},
            {"measure": "class_sensitivity", "label": "after"},
            {"measure": "pointing_game", "arguments": {"tolerance": 3}},
            {"measure": "parameter_randomization", "arguments": {"layers": ["fc"]}},
        ],
    }


@pytest.fixture(scope="module")
def expected(own, tmp_path_factory):
    """The numbers of a well-behaved neighbour, and none beside it."""
    return dump(evaluated(tmp_path_factory.mktemp("expected"), **changes(own)))


def without(tables, *names):
    gone = {"plan", "measures", *(f"rows of {name}" for name in names)}
    return {name: rows for name, rows in tables.items() if name not in gone}


@pytest.mark.parametrize("name", HARM)
def test_a_measure_that_does_harm_changes_no_number(name, own, expected, tmp_path):
    before = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), np.geterr(), os.getcwd()
    found = dump(evaluated(tmp_path, **changes(own, name)))
    assert without(found, name) == without(expected)
    after = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), np.geterr(), os.getcwd()
    assert after == before


def test_every_column_of_a_harmful_measure_is_of_the_same_model(own, tmp_path):
    """What it does to one column is undone before its next."""
    found = evaluated(tmp_path, **changes(own, "zeroed", "maps_in_place"))
    assert [row[:4] for row in found.rows("zeroed")] == [row[:4] for row in found.rows("measured")]
    a, b = ([row.value for row in found.rows(name)] for name in ("zeroed", "measured"))
    assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("broken", "KeyError: 'out of order'"),
        ("leaving", "SystemExit: 3"),
        ("silent", "AssertionError"),
        ("many", "returned list; expected 3 values"),
        ("complex_", "TypeError"),
    ],
)
def test_a_measure_that_fails_is_named(name, told, own, tmp_path):
    with pytest.raises(ValueError, match=rf"measure '{name}' failed on the maps of normgrad at conv1 .*{told}") as e:
        evaluated(tmp_path, **changes(own, name))
    assert "\n" not in str(e.value)


def test_memory_that_runs_out_names_the_batch_size(own, tmp_path):
    with pytest.raises(ValueError, match=r"memory ran out at images 0 to 2 .*20.00 GiB.*run.batch_size is 2"):
        evaluated(tmp_path, **changes(own, "hungry"))


def test_arguments_of_a_plan_are_not_a_measure_s_to_keep(own, tmp_path):
    small = changes(own)
    small["measures"] = [{"measure": f"{own}:keeps_arguments", "arguments": {"numbers": [7]}, "label": "keeps"}]
    assert {row.value for row in evaluated(tmp_path, **small).rows("keeps")} == {2.0}


def test_a_data_set_that_does_harm_changes_no_number(tmp_path):
    """Neither when it is opened, nor image by image."""
    code = (
        "import numpy, torch\n"
        "{at_import}\n"
        "class Data:\n"
        "    def __len__(self):\n        return 4\n"
        "    def __getitem__(self, i):\n"
        "        {at_reading}\n"
        "        x = torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(i), dtype=torch.float32)\n"
        "        return x, i % 3\n"
        "data = Data\n"
    )
    found = {}
    harm = "torch.set_grad_enabled(False), torch.set_default_dtype(torch.float64), torch.manual_seed(3)"
    for name, parts in {"good": ("", ""), "import": (harm, ""), "reading": ("", harm)}.items():
        file = tmp_path / f"{name}.py"
        file.write_text(code.format(at_import=parts[0], at_reading=parts[1] or "pass"))
        small = {"model": {"name": f"{HERE}:tiny_net"}, "layers": ["conv1"]}
        small |= {"data": {"kind": "custom", "dataset": f"{file}:data"}}
        small |= {"measures": [{"measure": f"{HERE}:drawn_value", "label": "drawn"}, {"measure": "class_sensitivity"}]}
        found[name] = without(dump(evaluated(tmp_path / name, **small)))
        assert torch.get_default_dtype() == torch.float32
        assert torch.is_grad_enabled()
    assert found["import"] == found["reading"] == found["good"]


# --- The keeper by itself --------------------------------------------------------------------------------------------


def test_a_model_comes_back_as_it_was():
    net = tiny_net().eval()
    net.register_buffer("count", torch.zeros(2))
    net.plain, net.notes = torch.ones(3), ["a", {"b": 1}]
    net.conv1.weight.grad = torch.ones_like(net.conv1.weight)
    handle = net.conv1.register_forward_hook(lambda *args: None)
    x = torch.randn(1, 3, 8, 8)
    state = {name: t.clone() for name, t in net.state_dict().items()}
    same = [*net.named_modules()], [id(p) for p in net.parameters()], net(x)
    keeper = Keeper(net)
    handle.remove()
    net.count += 1
    net.plain.mul_(2)
    net.notes.append(3)
    net.new = 4
    del net.fc
    net.conv1.weight.data = torch.zeros(2)
    net.conv1.bias.grad = torch.ones(6)
    net.conv2.register_parameter("extra", nn.Parameter(torch.zeros(1)))
    net.train()
    keeper.restore()
    assert ([*net.named_modules()], [id(p) for p in net.parameters()]) == same[:2]
    assert torch.equal(net(x), same[2])
    assert {name: t.tolist() for name, t in net.state_dict().items()} == {n: t.tolist() for n, t in state.items()}
    assert net.plain.tolist() == [1, 1, 1]
    assert net.notes == ["a", {"b": 1}]
    assert not hasattr(net, "new")
    assert len(net.conv1._forward_hooks) == 1
    assert net.conv1.bias.grad is None
    assert net.conv1.weight.grad.shape == net.conv1.weight.shape
    assert not any(module.training for module in net.modules())


def test_switches_come_back_after_an_exception(tmp_path):
    def disturbed():
        with undisturbed():
            torch.set_default_dtype(torch.float64)
            torch.set_default_device("meta")
            torch.use_deterministic_algorithms(True)
            torch.set_float32_matmul_precision("medium")
            os.chdir(tmp_path)
            raise KeyError

    here, precision = Path.cwd(), torch.get_float32_matmul_precision()
    with pytest.raises(KeyError):
        disturbed()
    assert torch.get_default_device().type == "cpu"
    assert (Path.cwd(), torch.get_default_dtype()) == (here, torch.float32)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_float32_matmul_precision() == precision
