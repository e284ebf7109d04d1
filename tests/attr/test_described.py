"""`help()` of every method's `attribute` tells its arguments, and the shape, sign and unit of what it returns."""

import inspect

import pytest

import captum_extract_aggregate as cea
from captum_extract_aggregate.attr.base import is_own

METHODS = [getattr(cea, name) for name in cea.__all__ if hasattr(getattr(cea, name), "attribute")]
METHODS.remove(cea.CaptureAttribution)  # the base, which makes no map


@pytest.mark.parametrize("method", METHODS)
def test_help_tells_arguments_and_result(method):
    assert len(METHODS) == 36
    text = inspect.getdoc(method.attribute)
    for name in list(inspect.signature(method.attribute).parameters)[1:]:
        assert f"\n    {name}: " in text
    returns = text[text.index("Returns:") : text.index("Raises:")]
    wrappers = (cea.MetaSaliency, cea.LibraGrad, cea.FinerCAM, cea.ClassCompetition)
    if method is cea.GuidedGradCAM:
        assert "The inputs' shapes" in returns
    elif method not in wrappers:  # which return what another method does
        assert "N x 1 x " in returns
        assert any(word in returns for word in ("units of", "without unit", "of 1"))
    assert max(map(len, text.splitlines())) <= 120
    assert method.attribute.__qualname__ == f"{method.__name__}.attribute"
    assert callable(method.attribute.__wrapped__)


def test_a_described_method_shares_passes(small_net):
    assert is_own(cea.GradCAM(small_net, "conv3"), "attribute")
    assert not is_own(type("Mine", (cea.GradCAM,), {"attribute": lambda self, x: x})(small_net, "conv3"), "attribute")
