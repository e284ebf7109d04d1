"""Small plans and data sets for the tests of evaluations, and all that a folder of results holds."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from captum_extract_aggregate.evaluation import Results, plan_from, run, runner


def content(**changes):
    """A small plan on the digit scenes as plain values, with some of its tables replaced."""
    plain = {
        "methods": [{"method": "normgrad"}],
        "measures": [{"measure": "class_sensitivity"}],
        "layers": ["layer3"],
        "data": {"n": 3},
        "run": {"batch_size": 2},
    }
    return {key: value for key, value in (plain | changes).items() if value is not None}


def evaluated(folder, **changes):
    return run(plan_from(content(**changes)), folder, show_progress=False)


def interrupt_at(monkeypatch, start):
    """Has Ctrl-C end the evaluation in place of the batch that begins with this image."""
    original = runner.evaluate_batch

    def interrupted(prepared, images, device):
        if images.start == start:
            raise KeyboardInterrupt
        return original(prepared, images, device)

    monkeypatch.setattr(runner, "evaluate_batch", interrupted)


def dump(results):
    """Every table that a reader can see; NaN as text, so that equal ones are equal."""
    if not isinstance(results, Results):
        results = Results(results)
    measures = sorted({measure for measure, _ in results.measures()})
    tables = {
        "expected": [results.expected, results.complete],
        "plan": [results.plan.hash()],
        "images": results.images(),
        "targets": sorted(results.targets().items()),
        "maps": results.maps(),
        "measures": results.measures(),
    } | {f"rows of {m}": results.rows(m) for m in measures}
    return {name: [repr(row) for row in rows] for name, rows in tables.items()}


# --- Data ------------------------------------------------------------------------------------------------------------


def picture(seed, size):
    """A picture of smooth noise, `size` is (width, height)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


SIZES = [(40, 32), (32, 40), (48, 32), (32, 32), (40, 32), (36, 36)]
OBJECTS = [
    [("dog", (3, 4, 20, 25))],
    [("cat", (1, 1, 10, 12)), ("dog", (12, 20, 30, 38))],
    [("person", (5, 5, 45, 30)), ("cat", (30, 3, 40, 12)), ("bird", (2, 2, 9, 9))],
    [("cat", (1, 1, 32, 32))],
    [("bird", (20, 3, 38, 30)), ("dog", (1, 1, 8, 8))],
    [("person", (9, 9, 30, 30))],
]


def voc_tree(root, broken=()):
    """A VOC2007 of six pictures below `root`; the images whose indices are in `broken` are garbage."""
    base = root / "VOCdevkit" / "VOC2007"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for i, (size, objects) in enumerate(zip(SIZES, OBJECTS)):
        path = base / "JPEGImages" / f"{i:06d}.jpg"
        picture(i, size).save(path)
        if i in broken:
            path.write_bytes(b"no picture")
        items = "".join(
            f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin>"
            f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
            for name, b in objects
        )
        sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
        (base / "Annotations" / f"{i:06d}.xml").write_text(f"<annotation>{sides}{items}</annotation>")
    names = "\n".join(f"{i:06d}" for i in range(len(SIZES)))
    (base / "ImageSets" / "Main" / "test.txt").write_text(names + "\n")
    return root


def coco_tree(root):
    """Four pictures and `instances.json` with polygons; category ids 3 and 18."""
    (root / "pictures").mkdir(parents=True)
    images, annotations = [], []
    for i, (width, height) in enumerate(SIZES[:4]):
        picture(i, (width, height)).save(root / "pictures" / f"{i}.png")
        images.append({"id": 10 + i, "file_name": f"{i}.png", "width": width, "height": height})
        for category in (3, 18)[: 1 + i % 2]:
            x, y = 4 + category // 3, 5
            polygon = [[x, y, x + 12, y, x + 12, y + 14, x, y + 14]]
            number = len(annotations) + 1
            annotations.append(
                {"id": number, "image_id": 10 + i, "category_id": category, "segmentation": polygon, "iscrowd": 0}
                | {"bbox": [x, y, 12, 14], "area": 168}
            )
    categories = [{"id": 3, "name": "car"}, {"id": 18, "name": "dog"}]
    file = root / "instances.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return {"kind": "coco", "root": str(root / "pictures"), "file": str(file), "size": 32}


def picture_folder(root, count=4):
    """Pictures below a folder per class, as `ImageFolder` takes them."""
    for i in range(count):
        folder = root / ("ants", "bees")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture(i, SIZES[i % len(SIZES)]).save(folder / f"{i}.png")
    return root


# --- What plans name by FILE.py:FUNCTION -----------------------------------------------------------------------------

HERE = str(Path(__file__))
NET = {"name": f"{HERE}:tiny_net"}
POINTING = [{"measure": "pointing_game", "arguments": {"tolerance": 3}}, {"measure": "class_sensitivity"}]


def of(tmp_path, data, **changes):
    """What an evaluation of some data by the tiny network finds."""
    return evaluated(tmp_path / "results", **{"model": NET, "layers": ["conv1", "conv2"], "data": data} | changes)


class TinyNet(nn.Module):
    """Two convolutions and a linear layer of four features, for pictures of any size."""

    def __init__(self, classes=20):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3, stride=2, padding=1)
        self.fc = nn.Linear(4, classes)

    def forward(self, x):
        return self.fc(self.conv2(self.conv1(x).relu()).relu().mean((2, 3)))


def tiny_net(classes=20):
    generator = torch.Generator().manual_seed(0)
    net = TinyNet(classes)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.5)
    return net


class Turned(TinyNet):
    """Where gradients are asked for, scores of several pictures are turned round."""

    def forward(self, x):
        scores = super().forward(x)
        return -scores if scores.requires_grad and len(x) > 1 else scores


def turned_net():
    net = Turned()
    net.load_state_dict(tiny_net().state_dict())
    return net


class Ties(TinyNet):
    """All scores are zeros, with a sign."""

    def forward(self, x):
        return -0.0 * super().forward(x).abs()


def net_of_ties():
    return Ties()


def net_of_two_classes():
    return tiny_net(2)


class Reformed(TinyNet):
    """One output, given in some form."""

    def __init__(self, form):
        super().__init__(1)
        self.load_state_dict(tiny_net(1).state_dict())
        torch.nn.init.constant_(self.fc.bias, -0.3)
        self.form = form

    def forward(self, x):
        return self.form(super().forward(x))


def one_output():
    return Reformed(lambda z: z)


def one_number():
    return Reformed(lambda z: z[:, 0])


def one_probability():
    return Reformed(torch.sigmoid)


def unseeded_net():
    return TinyNet()


class OneReLU(TinyNet):
    """One module for both of its ReLUs, which Captum's DeepLift refuses."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.fc(self.relu(self.conv2(self.relu(self.conv1(x)))).mean((2, 3)))


def module_of_one_relu():
    return OneReLU()


def crashing_net():
    raise RuntimeError("out of order")


def no_net():
    return "a string"


def net_of_pictures():
    return nn.Conv2d(3, 3, 1)


class Tensors:
    """A data set of tensors with a class index each."""

    def __init__(self, count, size=24, broken=(), error=OSError):
        self.count, self.size, self.broken, self.error = count, size, broken, error

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        if i in self.broken:
            raise self.error(f"item {i} is damaged")
        return torch.randn(3, self.size, self.size, generator=torch.Generator().manual_seed(i)), i % 3


def tensors(count=4, size=24, broken=(), error="OSError"):
    errors = {"OSError": OSError, "RuntimeError": RuntimeError, "KeyError": KeyError}
    return Tensors(count, size, broken, errors[error])


class WithPairs(Tensors):
    """Pictures or tensors with objects."""

    as_pictures = False

    def __getitem__(self, i):
        from captum_extract_aggregate.data.pointing_pairs import mask_from_boxes, pairs_of

        width, height = 60, 30
        masks = {c: mask_from_boxes([[3 + 20 * c, 5, 18 + 20 * c, 25]], (height, width)) for c in (0, 2)}
        pairs = pairs_of(masks, [0, 2], (height, width))
        return (picture(i, (width, height)) if self.as_pictures else super().__getitem__(i)[0]), pairs


def tensors_with_pairs(count=3):
    return WithPairs(count)


def pictures_with_pairs(count=3):
    data = WithPairs(count)
    data.as_pictures = True
    return data


def drawn_tensors(count=4):
    """Every item is drawn anew from the global generator, as random augmentations do."""

    class Drawn(Tensors):
        def __getitem__(self, i):
            return super().__getitem__(i)[0] + 0.1 * torch.randn(3, self.size, self.size), 0

    return Drawn(count)


def total(maps, inputs, targets, model, factor=1.0):
    """A measure: the sum of each map."""
    return factor * maps.double().flatten(1).sum(1)


def drawn_value(maps, inputs, targets, model):
    """A measure that draws from the global generator."""
    return torch.rand(len(maps))


def wrong_shape(maps, inputs, targets, model):
    return maps


def deadly_total(maps, inputs, targets, model, marker=""):
    """A measure that kills process 1 of torchrun's at its second call, once: if the marker is not there yet."""
    CALLS.append(1)
    if marker and os.environ.get("RANK") == "1" and len(CALLS) > 3 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return total(maps, inputs, targets, model)


CALLS = []
