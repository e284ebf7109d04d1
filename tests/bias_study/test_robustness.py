import pytest
import torch

from captum_extract_aggregate.bias_study import input_robustness, remove_biases
from captum_extract_aggregate.bias_study.robustness import plot_robustness
from tests.bias_study.networks import images, loader, network, seven
from tests.faults import snapshot
from tests.reference import bias_study as reference


def test_equals_the_reference():
    model, labels = network(), [i % 5 for i in range(12)]
    scales, shifts = [0.01, 1.0, 30.0, -1.0], [-2.0, 0.0, 0.5]
    found = input_robustness(model, loader(), scales, shifts, show_progress=False)
    assert [row.value for row in found.scales] == scales
    assert [row.value for row in found.shifts] == shifts
    for row in found.scales:
        assert row.top1.mean() == reference.accuracy_when(model, images(), labels, row.value, 0.0)
    for row in found.shifts:
        assert row.top1.mean() == reference.accuracy_when(model, images(), labels, 1.0, row.value)
    decided = model(images()).argmax(1).tolist()
    for row in found.shifts:
        assert row.same_decision.mean() == reference.accuracy_when(model, images(), decided, 1.0, row.value)


def test_pixels_are_scaled_and_shifted_before_they_are_normalised():
    mean, std = [0.4, 0.5, 0.3], [0.2, 0.25, 0.3]
    model, x = network(), images()
    m, s = (torch.tensor(v, dtype=x.dtype).reshape(1, 3, 1, 1) for v in (mean, std))
    pixels = (x * s + m).split(1)
    given = {"show_progress": False, "mean": mean, "std": std}
    found = input_robustness(model, loader(labels=False), [0.1, 1.0], [0.7], **given)
    decided = model(x).argmax(1)
    for row, change in zip([*found.scales, *found.shifts], (lambda p: 0.1 * p, lambda p: p, lambda p: p + 0.7)):
        wanted = [int(model((change(p) - m) / s).argmax()) == d for p, d in zip(pixels, decided.tolist())]
        assert row.same_decision.tolist() == wanted
    assert 0 < found.scales[0].same_decision.mean() < 1
    assert found.scales[1].same_decision.all()
    one = input_robustness(model, [x], [0.5], [], show_progress=False, mean=[0.4], std=[0.2]).scales[0]
    same = input_robustness(model, [x], [0.5], [], show_progress=False, mean=[0.4] * 3, std=[0.2] * 3).scales[0]
    assert torch.equal(one.same_decision, same.same_decision)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"std": [0.0]}, r"std \[0.0\]; expected one number or one for each channel, std above 0"),
        ({"mean": [0.5, 0.5]}, "mean holds 2 numbers for 3 channels; expected one, or as many"),
        ({"mean": "x"}, "mean is 'x'; expected a sequence of numbers"),
    ],
)
def test_what_is_no_normalisation(given, said):
    with pytest.raises((ValueError, TypeError), match=said):
        input_robustness(network(), loader(), show_progress=False, **given)


def test_without_biases_the_scale_does_not_matter_and_with_biases_it_does():
    bare = input_robustness(remove_biases(network()), loader(), [1e-3, 1e3], [], show_progress=False)
    assert [float(row.same_decision.mean()) for row in bare.scales] == [1, 1]
    whole = input_robustness(network(), loader(), [1e-3, 1e3], [], show_progress=False)
    assert min(float(row.same_decision.mean()) for row in whole.scales) < 1


def test_outputs_that_overflow_are_undefined_and_counted():
    found = input_robustness(network(torch.float16), loader(dtype=torch.float16), [6e4], [], show_progress=False)
    assert found.scales[0].same_decision.isnan().all()
    assert "(12 undefined)" in str(found)


def test_the_model_and_the_inputs_are_left_alone():
    model, x = network(), images()
    before = snapshot(model, x)
    input_robustness(model, [x], show_progress=False)
    assert snapshot(model, x) == before


def test_table_and_plot(tmp_path):
    found = input_robustness(network(), loader(), show_progress=False)
    assert str(found).splitlines()[1].startswith("input times 0.001")
    assert str(found).splitlines()[-1].startswith("input plus 10")
    path = tmp_path / "robustness.png"
    plot_robustness({"with biases": found, "without": found}).savefig(path)
    assert path.stat().st_size > 5000
    unlabelled = input_robustness(network(), loader(labels=False), [-1.0, 2.0], [], show_progress=False)
    lines = unlabelled.plot().axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["same decision"]

    shifts_only = input_robustness(network(), loader(), [], [0.0, 1.0], show_progress=False).plot()
    assert shifts_only.axes[1].get_legend() is not None


def test_the_top_five():
    model = seven()
    found = input_robustness(model, loader(), [1.0, -20.0], [], show_progress=False)
    for row in found.scales:
        scores = model(images() * row.value).detach()
        assert row.top5.tolist() == [reference.top_k_right(scores[i], {i % 5}, 5) for i in range(12)]
    assert found.scales[0].top5.tolist() != found.scales[1].top5.tolist()


@pytest.mark.parametrize(
    ("scales", "shifts", "error"),
    [
        ([], [], ValueError),
        ([float("nan")], [], ValueError),
        ([1.0], [float("inf")], ValueError),
        (2.0, [], TypeError),
        ([1.0], ["a"], TypeError),
    ],
)
def test_wrong_changes(scales, shifts, error):
    with pytest.raises(error, match="expected"):
        input_robustness(network(), loader(), scales, shifts, show_progress=False)


def test_train_mode_is_an_error():
    model = network()
    model.bn.train()
    with pytest.raises(ValueError, match="model's part 'bn' is in train mode"):
        input_robustness(model, loader(), show_progress=False)
