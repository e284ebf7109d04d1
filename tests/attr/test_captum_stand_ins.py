"""What stands for Captum's classes to mypy has their signatures."""

import inspect

import captum.attr
import pytest

from captum_extract_aggregate.attr import captum_stand_ins

NAMES = ["Attribution", "GradientAttribution", "LayerAttribution"]


def parameters(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", NAMES)
def test_every_function_and_property_is_one_of_captum_s_too(name):
    ours, captums = getattr(captum_stand_ins, name), getattr(captum.attr, name)
    assert [c.__name__ for c in ours.__mro__[1:-1]] == ["Attribution"] * (name != "Attribution")
    assert issubclass(captums, captum.attr.Attribution)
    functions = [n for n, value in vars(ours).items() if not n.startswith("__") and not isinstance(value, type)]
    for member in functions:
        captums_own = inspect.getattr_static(captums, member)
        assert type(captums_own) is type(inspect.getattr_static(ours, member)), member
        if not isinstance(captums_own, property):
            assert parameters(getattr(ours, member)) == parameters(getattr(captums, member)), member


@pytest.mark.parametrize("name", ["Attribution", "LayerAttribution"])
def test_they_are_made_as_captum_s_are(name):
    assert parameters(getattr(captum_stand_ins, name).__init__) == parameters(getattr(captum.attr, name).__init__)


@pytest.mark.parametrize("name", NAMES)
def test_every_attribute_is_one_that_captum_s_objects_have(name):
    def forward_func(x):
        return x

    made = getattr(captum.attr, name)(forward_func, *[None] * (name == "LayerAttribution"))
    declared = {n for c in type(made).__mro__ for n in vars(c).get("__annotations__", ())}
    ours_alone = {"attribute_per_target"}  # which methods of this package add
    for attribute in set(vars(getattr(captum_stand_ins, name)).get("__annotations__", ())) - ours_alone:
        assert hasattr(made, attribute) or attribute in declared, attribute
