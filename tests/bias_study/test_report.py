import pytest
import torch
from torch import nn

from captum_extract_aggregate.bias_study import bias_report, remove_biases
from tests.bias_study.networks import images, loader, network, seven
from tests.conftest import REAL_DATA, needs_real_data
from tests.faults import STAGES, InjectedError, arm, snapshot
from tests.reference import bias_study as reference


def test_equals_the_reference_image_by_image():
    model = network()
    report = bias_report(model, loader(), show_progress=False)
    f, f0 = model(images()).detach(), reference.without_biases(model)(images()).detach()
    for i in range(12):
        wanted = reference.correlation_slope_intercept(f[i], f0[i])
        found = report.correlation[i], report.slope[i], report.intercept[i]
        assert [float(v) for v in found] == pytest.approx(wanted, rel=1e-9)
        assert report.top1[i] == reference.top_k_right(f[i], {i % 5}, 1)
        assert report.top1_without[i] == reference.top_k_right(f0[i], {i % 5}, 1)
        assert report.same_decision[i] == (f[i].argmax() == f0[i].argmax())
    assert report.n == 12
    assert report.top5.isnan().all()  # five classes: the top five are all


def test_another_network_to_compare_with():
    model = network()
    plain = bias_report(model, loader(), show_progress=False)
    given = bias_report(model, loader(), remove_biases(model), show_progress=False)
    torch.testing.assert_close(plain.correlation, given.correlation)
    itself = bias_report(model, loader(), model, show_progress=False)
    assert itself.same_decision.mean() == 1
    torch.testing.assert_close(itself.slope, torch.ones(12, dtype=torch.float64))


def test_batches_do_not_matter_and_labels_are_optional():
    model = network()
    first = bias_report(model, loader(batch=12), show_progress=False)
    second = bias_report(model, loader(batch=1, labels=False), show_progress=False)
    torch.testing.assert_close(first.slope, second.slope)
    assert second.top1.isnan().all()
    assert "unknown" in str(second)


@pytest.mark.parametrize("classes", [3, 7])
def test_equal_outputs_have_no_line(classes):
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, classes)).double().eval()
    nn.init.zeros_(model[1].weight)
    nn.init.constant_(model[1].bias, 0.1)  # whose mean is not exactly 0.1
    report = bias_report(model, loader(labels=False), show_progress=False)
    assert report.correlation.isnan().all()
    assert report.slope.isnan().all()
    assert "undefined (12 undefined)" in str(report)


def test_the_top_five_before_and_after():
    model = seven()
    torch.nn.init.normal_(model[3].bias, std=3.0)
    report = bias_report(model, loader(), show_progress=False)
    f, f0 = model(images()).detach(), reference.without_biases(model)(images()).detach()
    wanted = [[reference.top_k_right(y[i], {i % 5}, 5) for i in range(12)] for y in (f, f0)]
    assert report.top5.tolist() == wanted[0]
    assert report.top5_without.tolist() == wanted[1]
    assert wanted[0] != wanted[1]


def test_images_that_overflow_are_left_out_of_both_sides_and_counted():
    class Overflows(nn.Module):
        def forward(self, x):
            return torch.where(x[:, :1, 0, 0] > 0, x.flatten(1)[:, :7], torch.inf)

    x = images()
    labels = torch.zeros(12, dtype=torch.long)
    report = bias_report(seven(), [(x, labels)], Overflows().eval(), show_progress=False)
    left_out = int((x[:, 0, 0, 0] <= 0).sum())
    assert 0 < left_out < 12
    assert int(report.same_decision.isnan().sum()) == left_out
    assert f"({left_out} images left out: outputs that are not finite)" in str(report)
    both = report.top1[~report.top1_without.isnan()].mean()
    assert f"{100 * both:.1f} %" in str(report).splitlines()[2]


def test_what_it_prints():
    lines = str(bias_report(network(), loader(), show_progress=False)).splitlines()
    assert lines[0] == "31 biases beside 833 parameters (3.72 %), 12 images"
    assert lines[1].split() == ["with", "without"]
    assert lines[2].split()[0] == "top-1"
    assert "±" in lines[6]


@pytest.mark.parametrize("stage", STAGES[:4])
def test_the_model_comes_back_after_a_fault(stage):
    model, x = network(), images()
    before = snapshot(model, x)
    handle = arm(model, stage, InjectedError())
    with torch.random.fork_rng(), pytest.raises(InjectedError):
        bias_report(model, [x], show_progress=False)
    handle.remove()
    bias_report(model, [x], show_progress=False)
    assert snapshot(model, x) == before


def test_other_wrong_uses():
    with pytest.raises(ValueError, match="dataloader gives no batch"):
        bias_report(network(), [], show_progress=False)
    with pytest.raises(ValueError, match="model is in train mode; expected eval mode"):
        bias_report(network().train(), loader(), show_progress=False)
    with pytest.raises(TypeError, match="model is a function"):
        bias_report(lambda x: x, loader(), show_progress=False)
    with pytest.raises(ValueError, match="expected class scores, N x classes"):
        bias_report(nn.Conv2d(3, 4, 3).double().eval(), loader(), show_progress=False)
    with pytest.raises(ValueError, match="without is in train mode; expected eval mode"):
        bias_report(network(), loader(), network().train(), show_progress=False)
    with pytest.raises(TypeError, match="dataloader is a NoneType"):
        bias_report(network(), None, show_progress=False)
    other = nn.Sequential(nn.Flatten(), nn.Linear(432, 3)).double().eval()
    with pytest.raises(ValueError, match="without gives 3 classes, the model 5"):
        bias_report(network(), loader(), other, show_progress=False)


@needs_real_data
def test_squeezenet_on_photographs():
    """Without biases the outputs follow those with them, and are smaller."""
    from captum_extract_aggregate.evaluation import DataPlan, ModelPlan
    from captum_extract_aggregate.reproduction.setting import Setting

    weights = str(REAL_DATA / "models" / "squeezenet1_1-imagenet.pth")
    data = DataPlan("list", file=str(REAL_DATA / "imagenet_sample" / "labels.tsv"))
    setting = Setting("squeezenet", ModelPlan("squeezenet1_1", weights), data, REAL_DATA, has_objects=False)
    report = bias_report(setting.network, setting.batches(32), show_progress=False)
    assert report.top1.mean() > 0.4
    assert report.correlation.mean() > 0.5
    assert report.slope.mean() < 1
