"""Evaluations that go on with what a folder holds, and which images they look at again."""

from captum_extract_aggregate.evaluation import runner
from tests.evaluation.plans import HERE, NET, SIZES, evaluated, picture

TENSORS = {"kind": "custom", "dataset": f"{HERE}:tensors", "arguments": {"count": 5}}


SMALL = {"model": NET, "layers": ["conv1"], "data": TENSORS}


def evaluated_images(folder, monkeypatch, **changes):
    """What an evaluation finds, and which batches of images it computed for that."""
    seen, original = [], runner.evaluate_batch

    def counting(prepared, images, device):
        seen.append((images.start, images.stop))
        return original(prepared, images, device)

    monkeypatch.setattr(runner, "evaluate_batch", counting)
    found = evaluated(folder, **changes)
    monkeypatch.undo()
    return found, seen


def listed(folder, names=("a", "b", "c", "d"), labels=(0, 1, 2, 3)):
    """A list of pictures with classes."""
    for i, name in enumerate(names):
        if not (folder / f"{name}.png").exists():
            picture(i, SIZES[i % len(SIZES)]).save(folder / f"{name}.png")
    file = folder / "list.txt"
    file.write_text("".join(f"{name}.png\t{label}\n" for name, label in zip(names, labels)))
    return file


def of_list(folder, **changes):
    return SMALL | {"data": {"kind": "list", "file": str(listed(folder, **changes)), "size": 24}}
