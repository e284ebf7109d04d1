"""The registry that every kind of thing with a name is kept in."""

import pytest

from captum_extract_aggregate._common.registry import Registry


@pytest.fixture
def registry():
    made = Registry("colour", "unregister_colour")
    made.register("red", 1)
    made.register("green", 2)
    made.seal()
    return made


def test_names_keep_their_order(registry):
    registry.register("blue", 3)
    assert registry.names() == list(registry) == ["red", "green", "blue"]
    assert registry["blue"] == 3
    assert len(registry) == 3


def test_only_known_names_are_in_it(registry):
    assert "red" in registry
    for unknown in ("rod", 3, []):
        assert unknown not in registry


def test_an_unknown_name_is_told_the_nearest(registry):
    with pytest.raises(ValueError, match=r"^colour is 'gren', which is unknown; did you mean 'green'"):
        registry["gren"]
    with pytest.raises(ValueError, match="which is unknown"):
        registry.unregister("gren")
    with pytest.raises(ValueError, match=r"^colour is \[\], which is unknown"):
        registry[[]]


def test_a_taken_name_stays_what_it_is(registry):
    taken = r"^the colour is 'red', which is taken; .*overwrite=True.*unregister_colour\('red'\)"
    with pytest.raises(ValueError, match=taken):
        registry.register("red", 9)
    with pytest.raises(ValueError, match=taken):
        registry.decorator("red")
    assert registry["red"] == 1


def test_what_was_overwritten_comes_back(registry):
    registry.register("red", 9, overwrite=True)
    registry.register("red", 10, overwrite=True)
    registry.unregister("red")
    assert registry["red"] == 1
    registry.unregister("red")
    assert registry["red"] == 1


def test_what_users_added_is_forgotten(registry):
    registry.register("blue", 3)
    registry.register("blue", 4, overwrite=True)
    registry.unregister("blue")
    assert "blue" not in registry


def test_the_decorator_gives_back_what_it_decorates(registry):
    @registry.decorator("blue")
    def blue():
        return "blue"

    assert registry["blue"] is blue
    assert blue() == "blue"


def test_a_name_taken_meanwhile_is_refused_when_the_decorator_is_used(registry):
    decorate = registry.decorator("blue")
    registry.register("blue", 3)
    with pytest.raises(ValueError, match="taken"):
        decorate(4)
    assert registry["blue"] == 3


@pytest.mark.parametrize("name", [3, "", None, ["red"]])
def test_names_are_words(registry, name):
    with pytest.raises(TypeError, match="expected a string"):
        registry.register(name, 1)
