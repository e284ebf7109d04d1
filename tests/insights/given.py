"""Where Captum Insights is, models of several inputs, and attributions as Insights has them made."""

import importlib.util

import pytest
import torch

from captum_extract_aggregate import insights

HAS_INSIGHTS = importlib.util.find_spec("captum.insights") is not None and importlib.util.find_spec("flask") is not None


needs_insights = pytest.mark.skipif(not HAS_INSIGHTS, reason="needs captum[insights]==0.8.0")


class Two(torch.nn.Module):
    """An image, and a second input of one kind or another; `a` and `b` see one of them each, `both` the two."""

    def __init__(self, kind, second_first=False):
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.second_first = kind, second_first
        self.a = torch.nn.Sequential(
            *(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
            *(torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.ReLU()),
        )
        self.b = {
            "vector": lambda: torch.nn.Linear(5, 8),
            "image": lambda: torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU()),
            "tokens": lambda: torch.nn.Embedding(20, 8),
        }[kind]()
        self.both = torch.nn.Conv2d(8, 8, 1)
        self.fc = torch.nn.Linear(8, 6)
        self.eval()

    def forward(self, x, y, factor=1.0):
        x, y = (y, x) if self.second_first else (x, y)
        y = self.b(y)
        if self.kind == "image":
            y = y.mean((2, 3))
        if self.kind == "tokens":
            y = y.mean(1)
        return self.fc(self.both(self.a(x) + y[..., None, None]).relu().mean((2, 3))) * factor

    def inputs(self):
        second = {
            "vector": torch.rand(1, 5),
            "image": torch.rand(1, 3, 10, 14),
            "tokens": torch.tensor([[3, 7, 7, 1, 0, 2]]),
        }[self.kind]
        x = torch.rand(1, 3, 16, 16)
        return (second, x) if self.second_first else (x, second)


def of_insights(model, inputs, name, extra=None, **arguments):
    """The attributions as Insights has them made."""
    from captum.insights.attr_vis.attribution_calculation import AttributionCalculation

    calculation = AttributionCalculation([model], list("abcdef"), [])
    baselines = [tuple(torch.zeros_like(x) for x in inputs)]
    with torch.no_grad():
        return calculation.calculate_attribution(baselines, inputs, extra, torch.tensor(2), name, arguments, model)


class Registered:
    """A model that is registered with Insights, and what its page asks to be calculated."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def config(cls, model, x):
        from captum.insights.attr_vis import config

        insights.register(model, x)
        return config

    def calculate(self, model, x, name, arguments):
        from captum.insights.attr_vis.attribution_calculation import AttributionCalculation

        calculation = AttributionCalculation([model], [str(i) for i in range(10)], [])
        baselines = [(torch.zeros_like(x),)]
        (found,) = calculation.calculate_attribution(baselines, (x,), None, torch.tensor(5), name, arguments, model)
        return found
