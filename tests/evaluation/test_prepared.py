"""All that a plan names, built: which images go together, which cells are computed, and which classes are explained."""

from types import SimpleNamespace

import pytest
import torch

from captum_extract_aggregate.evaluation import plan_from
from captum_extract_aggregate.evaluation.prepare import prepare
from captum_extract_aggregate.evaluation.prepared import targets_of
from tests.evaluation.plans import content


def prepared(n=5, batch_size=2, **parts):
    plain = content(
        data={"kind": "scenes", "n": n},
        model={"name": "scene-resnet"},
        layers=["layer3", "layer4"],
        methods=[{"method": "normgrad"}, {"method": "gradcam", "layers": ["layer2"]}],
        measures=[{"measure": "class_sensitivity"}, {"measure": "pointing_game"}],
        run={"batch_size": batch_size},
        **parts,
    )
    return prepare(plan_from(plain), torch.device("cpu"))


@pytest.mark.parametrize(
    ("n", "size", "expected"), [(4, 2, [(0, 2), (2, 4)]), (5, 2, [(0, 2), (2, 5)]), (1, 2, [(0, 1)]), (3, 1, None)]
)
def test_no_image_is_alone_if_it_can_be_helped(n, size, expected):
    found = [(b.start, b.stop) for b in prepared(n, size).batches()]
    assert found == (expected or [(0, 1), (1, 2), (2, 3)])


def test_every_measure_of_every_column_is_a_cell_and_the_centre_points_too():
    cells = prepared().cells()
    columns = [("normgrad", "layer3"), ("normgrad", "layer4"), ("gradcam", "layer2")]
    measures = ("class_sensitivity", "pointing_game")
    expected = {(*column, measure) for column in columns for measure in measures}
    assert set(cells) == expected | {("centre", "image", "pointing_game")}
    of_first = {cells["normgrad", layer, "pointing_game"] for layer in ("layer3", "layer4")}
    assert len(of_first) == 1  # which layer it is says the key
    assert cells["gradcam", "layer2", "pointing_game"] not in of_first


def test_a_part_computes_what_is_wanted_from_no_more_layers():
    wanted = ("normgrad", "layer4", "class_sensitivity")
    part = prepared().only([wanted])
    assert [(m.label, m.layers) for m in part.methods] == [("normgrad", ("layer4",))]
    assert part.wants(wanted)
    assert not part.wants(("gradcam", "layer2", "class_sensitivity"))


def test_the_best_the_worst_and_what_is_there_are_explained():
    scores = torch.tensor([[0.1, 0.9, 0.3, 0.2], [0.5, 0.1, 0.2, 0.3]])
    there = [SimpleNamespace(name="a", pairs=SimpleNamespace(classes=[2, 1])), SimpleNamespace(name="b", pairs=None)]
    assert targets_of(there, scores).tolist() == [[1, 0, 2], [0, 1, 0]]
    there[1].pairs = SimpleNamespace(classes=[7])
    with pytest.raises(ValueError, match="image 'b' holds class 7, but the model has 4 classes"):
        targets_of(there, scores)
