"""A network around a part, its inputs, and what is captured in it."""

import captum.attr as captum_attr
import torch
from torch import nn

import captum_extract_aggregate as cea
from captum_extract_aggregate._engine.evidence import Evidence
from captum_extract_aggregate._engine.recording import record


def evidence_of(model, x, places, target=1, **kwargs) -> Evidence:
    return next(record(model, x, places, **kwargs).evidence([target]))


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def equals_captum(model, layer, x=X, target=1, **kwargs):
    got = cea.LinearApproximation(model, layer).attribute(x, target, **kwargs)
    theirs = captum_attr.LayerGradientXActivation(model, layer).attribute(x, target, **kwargs).sum(1, keepdim=True)
    return torch.allclose(got, theirs, rtol=1e-9, atol=1e-14)


class Head(nn.Module):
    """A small network around a `body`, in float64."""

    def __init__(self, body):
        super().__init__()
        self.body, self.mix = body, nn.Conv2d(4, 3, 1)
        self.double()

    def forward(self, x, *extra):
        return self.mix(self.body(x, *extra)).tanh().mean((2, 3))


def kinds(t, watch):
    dims = watch.dims(t)
    return None if dims is None else [sorted({part.kind for part in dim}) for dim in dims]
