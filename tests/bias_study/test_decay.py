import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from captum_extract_aggregate.bias_study import DecayStep, decay_biases, plot_decay
from captum_extract_aggregate.bias_study.removal import bias_tensors
from tests.bias_study.networks import Transformer, images, loader, network
from tests.faults import snapshot
from tests.networks import lively
from tests.reference import bias_study as reference

SETTINGS = {"steps": 6, "updates_per_step": 2, "lr": 1e-2, "temperature": 3.0, "show_progress": False}


def state(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, t in first.items():
        assert torch.equal(t, second[name]), name


def test_equals_the_reference():
    model = network()
    found, history = decay_biases(model, loader(), **SETTINGS)
    batches = list(images().split(4))
    wanted, losses = reference.decay(model, batches, 6, 2, 1e-2, 3.0)
    for name, t in found.state_dict().items():
        torch.testing.assert_close(t, wanted.state_dict()[name], rtol=1e-8, atol=1e-10)
    assert [(h.scale, h.loss) for h in history] == [pytest.approx(pair, rel=1e-8) for pair in losses]


def test_an_exponential_decay_and_training_at_zero_equal_the_reference():
    model = network()
    found, history = decay_biases(model, loader(), **SETTINGS, schedule="exponential", steps_at_zero=2)
    wanted, losses = reference.decay(model, list(images().split(4)), 6, 2, 1e-2, 3.0, exponential=True, at_zero=2)
    for name, t in found.state_dict().items():
        torch.testing.assert_close(t, wanted.state_dict()[name], rtol=1e-8, atol=1e-10)
    assert [(h.scale, h.loss) for h in history] == [pytest.approx(pair, rel=1e-8) for pair in losses]
    assert [h.scale for h in history[-3:]] == [0, 0, 0]


def test_what_batch_normalisation_scales_by_stays():
    found, _ = decay_biases(network(), loader(), **SETTINGS)
    kept = {name: t for name, t in network().state_dict().items() if "bn" in name and name.endswith(("weight", "var"))}
    assert len(kept) > 1
    assert all(torch.equal(found.state_dict()[name], t) for name, t in kept.items())


def test_the_biases_are_exactly_zero_and_the_network_keeps_up():
    model = network()
    found, history = decay_biases(model, loader(), steps=60, updates_per_step=4, lr=1e-2, show_progress=False)
    assert all(not bool(t.any()) for t in bias_tensors(found).values())
    assert [h.step for h in history] == list(range(1, 61))
    untrained, without = decay_biases(model, loader(), steps=60, updates_per_step=1, lr=1e-12, show_progress=False)
    assert history[-1].loss < 0.2 * without[-1].loss
    torch.testing.assert_close(untrained(images()), reference.without_biases(model)(images()), atol=1e-6, rtol=1e-6)


def test_the_original_and_the_random_state_are_left_alone():
    model, x = network(), images()
    model.conv2.weight.requires_grad_(False)
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    generator = torch.Generator().manual_seed(5)
    before, drawn = snapshot(model, x), generator.get_state()
    python, numpy = random.getstate(), np.random.get_state()[1].tolist()
    found, _ = decay_biases(model, loader(shuffle=True, generator=generator), **SETTINGS)
    assert snapshot(model, x) == before
    assert torch.equal(generator.get_state(), drawn)
    assert random.getstate() == python
    assert np.random.get_state()[1].tolist() == numpy
    flags = [(p.requires_grad, p.grad) for p in found.parameters()]
    assert flags == [(p.requires_grad, None) for p in model.parameters()]
    assert not torch.equal(found.conv2.weight, model.conv2.weight)  # frozen weights make up for the biases, too


class Noisy(Dataset):
    """Images with augmentation from three generators."""

    def __len__(self):
        return 12

    def __getitem__(self, i):
        x = images()[i] + torch.randn(3, 12, 12, dtype=torch.float64) * 0.1
        return x * (1 + random.random()) + np.random.rand(), i % 5


@pytest.mark.parametrize(
    "make",
    [
        lambda: DataLoader(Noisy(), 5, shuffle=True),
        lambda: loader(shuffle=True, generator=torch.Generator().manual_seed(3)),
        lambda: DataLoader(Noisy(), 4, sampler=RandomSampler(Noisy(), generator=torch.Generator())),
        lambda: [(images(), torch.arange(12) % 5), (images() * 2, torch.arange(12) % 5)],
    ],
)
@pytest.mark.parametrize("stops_at", [1, 4, 5])
def test_an_interrupted_run_goes_on_exactly(tmp_path, make, stops_at, monkeypatch):
    from captum_extract_aggregate.bias_study import decay

    model, path = network(), tmp_path / "sub" / "decay.pt"
    wanted, history = decay_biases(model, make(), **SETTINGS)
    step = decay._Decay.step

    def fails(self, number, *args):
        if number == stops_at:
            raise KeyboardInterrupt
        return step(self, number, *args)

    monkeypatch.setattr(decay._Decay, "step", fails)
    with pytest.raises(KeyboardInterrupt):
        decay_biases(model, make(), **SETTINGS, checkpoint=path, checkpoint_every=2)
    monkeypatch.undo()
    assert path.exists() == (stops_at > 2)
    torch.rand(7)  # whatever else draws meanwhile
    found, again = decay_biases(model, make(), **SETTINGS, checkpoint=path, checkpoint_every=2)
    assert_same(state(found), state(wanted))
    assert again == history
    finished, same = decay_biases(model, make(), **SETTINGS, checkpoint=path)
    assert_same(state(finished), state(wanted))
    assert same == history
    assert [p.name for p in path.parent.iterdir()] == ["decay.pt"]


def test_workers_resume_exactly(tmp_path):
    model, path = network(), tmp_path / "decay.pt"
    make = lambda: DataLoader(Noisy(), 5, shuffle=True, num_workers=1, timeout=60)  # noqa: E731
    wanted, history = decay_biases(model, make(), **{**SETTINGS, "steps": 3})
    content = torch.load(_stopped_after(2, model, make(), path), weights_only=True)
    assert len(content["history"]) == 2
    found, again = decay_biases(model, make(), **{**SETTINGS, "steps": 3}, checkpoint=path)
    assert_same(state(found), state(wanted))
    assert again == history


def _stopped_after(steps, model, data, path):
    from captum_extract_aggregate.bias_study import decay

    save = decay._save

    def stops(*args):
        save(*args)
        if len(args[2].history) == steps:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decay, "_save", stops)
        with pytest.raises(KeyboardInterrupt):
            decay_biases(model, data, **{**SETTINGS, "steps": 3}, checkpoint=path, checkpoint_every=1)
    return path


def test_every_pass_has_an_order_of_its_own():
    seen = []

    class Watches(Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, i):
            seen.append(i)
            return images()[i]

    decay_biases(network(), DataLoader(Watches(), 4, shuffle=True), steps=6, updates_per_step=1, show_progress=False)
    assert sorted(seen[:12]) == sorted(seen[12:24]) == list(range(12))
    assert seen[:12] != seen[12:24]


def test_means_are_over_images():
    x = images(10)
    still = {**SETTINGS, "steps": 1, "lr": 1e-12}
    whole = decay_biases(network(), [x], **{**still, "updates_per_step": 1}).history[0]
    parts = decay_biases(network(), [x[:9], x[9:]], **still).history[0]
    assert (parts.loss, parts.same_decision) == pytest.approx((whole.loss, whole.same_decision))
    labelled = [(x[:9], torch.full((9,), -1)), (x[9:], torch.tensor([2]))]
    assert not math.isnan(decay_biases(network(), labelled, **still).history[0].top1)


def test_the_order_comes_from_the_seed():
    model = network()
    first, second, third = (
        decay_biases(model, loader(shuffle=True), **SETTINGS, seed=seed).history for seed in (0, 0, 1)
    )
    assert first == second != third


def test_foreign_and_damaged_checkpoints(tmp_path):
    model, path = network(), tmp_path / "decay.pt"
    decay_biases(model, loader(), **SETTINGS, checkpoint=path)
    with pytest.raises(ValueError, match="is of another lr; expected one that decay_biases wrote: delete it"):
        decay_biases(model, loader(), **{**SETTINGS, "lr": 0.5}, checkpoint=path)
    other = network()
    other.fc.weight.data += 1
    with pytest.raises(ValueError, match="is of another network"):
        decay_biases(other, loader(), **SETTINGS, checkpoint=path)
    with pytest.raises(ValueError, match="checkpoint is of other data"):
        decay_biases(
            model,
            [images() * 3],
            **{**SETTINGS, "steps": 3},
            checkpoint=_stopped_after(2, model, loader(), tmp_path / "b.pt"),
        )
    sigmoid = network()
    sigmoid.relu1 = nn.Sigmoid().eval()
    with pytest.raises(ValueError, match="is of another network"):
        decay_biases(sigmoid, loader(), **SETTINGS, checkpoint=path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        decay_biases(model, loader(), **SETTINGS, checkpoint=path)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="holds something else"):
        decay_biases(model, loader(), **SETTINGS, checkpoint=path)


def test_labels_are_counted_and_not_needed():
    labelled = decay_biases(network(), loader(), **SETTINGS).history
    without = decay_biases(network(), loader(labels=False), **SETTINGS).history
    assert [h.loss for h in labelled] == [h.loss for h in without]
    assert all(math.isnan(h.top1) for h in without)
    assert all(0 <= h.top1 <= 1 for h in labelled)


def test_a_transformer():
    model = lively(Transformer())
    found, history = decay_biases(model, [images(4, torch.float32)], steps=3, updates_per_step=1, show_progress=False)
    assert not bool(found.block.self_attn.in_proj_bias.any())
    assert history[-1].scale == 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"steps": 0}, "steps is 0; expected a whole number from 1"),
        ({"updates_per_step": 1.5}, "updates_per_step is 1.5"),
        ({"checkpoint_every": -1}, "checkpoint_every is -1"),
        ({"lr": 0}, "lr is 0; expected a positive number"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"lr": "small"}, "lr is 'small'; expected a positive number"),
        ({"steps": True}, "steps is True"),
        ({"seed": None}, "seed is None; expected a whole number from 0"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
    ],
)
def test_wrong_arguments(changed, said):
    with pytest.raises(ValueError, match=said):
        decay_biases(network(), loader(), **{**SETTINGS, **changed})


def test_wrong_networks_and_data():
    with pytest.raises(ValueError, match="has no biases"):
        decay_biases(nn.Sequential(nn.Flatten(), nn.Linear(432, 3, bias=False)).eval(), loader(), **SETTINGS)
    with pytest.raises(ValueError, match="in train mode"):
        decay_biases(network().train(), loader(), **SETTINGS)
    with pytest.raises(ValueError, match="gives no batch; expected one that can be gone through again"):
        decay_biases(network(), iter(loader()), **SETTINGS)
    with pytest.raises(ValueError, match="gives no batch; expected at least one"):
        decay_biases(network(), [], **SETTINGS)
    with pytest.raises(TypeError, match="dataloader is a int"):
        decay_biases(network(), 3, **SETTINGS)
    for low in (torch.float16, torch.bfloat16):
        with pytest.raises(ValueError, match=r"the model is in torch\..*float16, where small steps vanish"):
            decay_biases(network(low), loader(), **SETTINGS)
    with torch.inference_mode(), pytest.raises(ValueError, match=r"torch\.inference_mode is on"):
        decay_biases(network(), loader(), **SETTINGS)
    with pytest.raises(ValueError, match="dataloader has persistent_workers"):
        decay_biases(network(), Persistent(), **SETTINGS, checkpoint="never.pt")
    with pytest.raises(ValueError, match=r"no longer finite|the loss is (inf|nan)"):
        decay_biases(network(torch.float32), loader(dtype=torch.float32), **{**SETTINGS, "lr": 1e36})
    with pytest.raises(ValueError, match="the loss is nan at step 1"):
        decay_biases(network(), [images() * math.nan], **SETTINGS)


class Persistent(list):
    """Looks like a data loader with persistent workers."""

    persistent_workers = True


def test_numbers_of_numpy(tmp_path):
    path = tmp_path / "decay.pt"
    given = {**SETTINGS, "steps": np.int64(2), "lr": np.float64(1e-2), "seed": np.int64(3)}
    first = decay_biases(network(), loader(), **given, checkpoint=path).history
    assert decay_biases(network(), loader(), **given, checkpoint=path).history == first


def test_the_plot(tmp_path):
    _, history = decay_biases(network(), loader(), **SETTINGS)
    figure = plot_decay(history)
    figure.savefig(tmp_path / "decay.png")
    assert [line.get_label() for line in figure.axes[1].get_lines()] == [
        *("same decision as the original", "right (top-1)", "scale of the biases"),
    ]
    plain = plot_decay([DecayStep(1, 0.0, 0.1, 1.0, math.nan)])
    assert len(plain.axes[1].get_lines()) == 2
