"""The visualizer behind the page: images and labels, overlapping requests, and time."""

import threading
import time

import pytest
import torch

import captum_extract_aggregate as cea
from captum_extract_aggregate import insights
from tests.insights.given import needs_insights


@needs_insights
@pytest.mark.parametrize(
    ("classes", "dataset", "error", "said"),
    [
        (["a"] * 10, [], ValueError, "dataset gives no image"),
        (["a"] * 10, ["picture"], TypeError, "dataset gives a str as image 0"),
        (["a"] * 9, [torch.zeros(3, 96, 96)], ValueError, "classes has 9 names"),
        (["a"] * 10, [(torch.zeros(3, 96, 96), 10)], ValueError, "dataset gives the label 10"),
        (["a"] * 10, [(torch.zeros(3, 96, 96), "cat")], TypeError, "dataset gives the label 'cat'"),
        (["a"] * 10, [(torch.zeros(3, 96, 96), 1, 2)], TypeError, r"expected .* or a pair \(image, label\)"),
        (["a"] * 10, [torch.zeros(3, 96, 96, dtype=torch.uint8)], TypeError, "dataset gives a torch.uint8"),
        (["a"] * 10, [torch.zeros(4, 96, 96)], TypeError, "of one or three channels"),
        (["a"] * 10, [torch.full((3, 96, 96), torch.nan)], ValueError, "scores for image 0 are not finite"),
        (10, [torch.zeros(3, 96, 96)], TypeError, "classes is a int"),
    ],
)
def test_wrong_uses(classes, dataset, error, said, model):
    with pytest.raises(error, match=said):
        insights.serve(model, classes, dataset)


@needs_insights
def test_labels(model):
    from captum_extract_aggregate.insights.visualizer import batches_of

    class Endless(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return torch.zeros(3, 96, 96), torch.tensor(index)

    classes = [str(i) for i in range(10)]
    assert [int(batch.labels) for batch in batches_of(model, classes, Endless())] == [0, 1]
    scenes = cea.DigitScenes(4, seed=5)
    found = batches_of(model, classes, scenes)
    assert all(int(batch.labels) in target["labels"].tolist() for batch, (_, target) in zip(found, scenes))


@needs_insights
def test_requests_that_overlap_keep_their_own_method(model, x):
    from captum_extract_aggregate.insights.visualizer import Visualizer, batches_of

    insights.register(model, x)
    names = [str(i) for i in range(10)]
    visualizer = Visualizer(model, names, batches_of(model, names, [x[0]]), lambda image: image.clamp(0, 1), "gradcam")
    drawn = {}

    def request(method):
        visualizer._update_config({"attribution_method": method, "arguments": {}, "prediction": "all", "classes": []})
        together.wait()  # all have said what they want before the first is served
        (output,) = visualizer.visualize()
        drawn[method] = output[0].feature_outputs[0].modified

    together = threading.Barrier(3)
    threads = [threading.Thread(target=request, args=(m,)) for m in ("gradcam", "normgrad", "linear-approximation")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for method in drawn:
        visualizer._update_config({"attribution_method": method, "arguments": {}, "prediction": "all", "classes": []})
        assert visualizer.visualize()[0][0].feature_outputs[0].modified == drawn[method]
    assert len(set(drawn.values())) == 3


class Slow(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 2, 3)
        self.eval()

    def forward(self, x):
        time.sleep(0.02)
        return self.conv(x).mean((2, 3))


@needs_insights
class TestTime:
    def visualizer(self, seconds):
        from captum_extract_aggregate.insights.visualizer import Visualizer, batches_of

        model = Slow()
        insights.register(model, torch.zeros(1, 3, 8, 8))
        batches = batches_of(model, ["a", "b"], [torch.rand(3, 8, 8)])
        return Visualizer(model, ["a", "b"], batches, lambda image: image, "normgrad", seconds)

    def fetch(self, visualizer, method="gradcam", **arguments):
        settings = {"attribution_method": method, "arguments": arguments, "prediction": "all", "classes": []}
        visualizer._update_config(settings)
        return visualizer.visualize()

    def test_a_request_ends(self):
        visualizer = self.visualizer(seconds=0.3)
        begun = time.monotonic()
        (slow,) = self.fetch(visualizer, "Feature Ablation", patches=32)  # 1,000 passes
        assert time.monotonic() - begun < 5
        (quick,) = self.fetch(visualizer)
        assert slow[0].feature_outputs[0].modified != quick[0].feature_outputs[0].modified
        assert not visualizer.models[0]._forward_pre_hooks

    def test_the_next_one_does_not_wait_for_ever(self):
        from captum_extract_aggregate.insights.requests import RefusedError

        visualizer = self.visualizer(seconds=0.2)
        with visualizer._lock, pytest.raises(RefusedError, match=r"at most 0.2 seconds each\); try again"):
            self.fetch(visualizer)
        assert len(self.fetch(visualizer)) == 1

    def test_few_wait(self):
        from captum_extract_aggregate.insights.requests import RefusedError

        visualizer = self.visualizer(seconds=60)
        for _ in range(8):
            visualizer._queue.acquire()
        with pytest.raises(RefusedError, match="try again"):
            self.fetch(visualizer)

    def test_other_threads_are_not_stopped(self):
        visualizer = self.visualizer(seconds=1e-6)
        with visualizer._turn():
            elsewhere = threading.Thread(target=lambda: found.append(visualizer.models[0](torch.rand(1, 3, 8, 8))))
            found = []
            elsewhere.start()
            elsewhere.join()
            assert len(found) == 1
            with pytest.raises(TimeoutError):
                visualizer.models[0](torch.rand(1, 3, 8, 8))


@needs_insights
def test_a_model_of_two_images(model, x):
    """Fetching goes round the images, once each."""
    from captum_extract_aggregate.insights.visualizer import Visualizer, batches_of

    insights.register(model, x)
    batches = batches_of(model, [str(i) for i in range(10)], [x[0], (x[0], 3)])
    visualizer = Visualizer(model, [str(i) for i in range(10)], batches, lambda image: image.clamp(0, 1), "gradcam")
    assert len(visualizer.visualize()) == 2
    visualizer._update_config(
        {"attribution_method": "gradcam", "arguments": {}, "prediction": "incorrect", "classes": []}
    )
    (only,) = visualizer.visualize()  # the page's filter
    assert only[0].actual.label == "3"
    visualizer._update_config({"attribution_method": "gradcam", "arguments": {}, "prediction": "all", "classes": ["9"]})
    assert visualizer.visualize() == []  # where Captum's looks for ever
