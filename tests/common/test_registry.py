"""The registry: names, clashes, and what an unknown name is answered."""

import pytest

from captum_extract_aggregate._common.registry import Registry


def test_things_are_found_by_name_in_their_order():
    held = Registry("thing")
    held.register("b", 1)

    @held.decorator("a")
    def function():
        return 2

    assert held.names() == ["b", "a"] == list(held)
    assert (held["b"], held["a"]()) == (1, 2)
    assert function() == 2
    assert "a" in held
    assert "c" not in held
    assert len(held) == 2
    held.unregister("b")
    assert held.names() == ["a"]


def test_a_clash_is_refused_unless_it_is_meant():
    held = Registry("thing")
    held.register("one", 1)
    with pytest.raises(ValueError, match="thing is 'one', which is taken; expected another name, or overwrite=True"):
        held.register("one", 2)
    assert held["one"] == 1
    held.register("one", 2, overwrite=True)
    assert held["one"] == 2
    with pytest.raises(ValueError, match="thing is ''; expected a name"):
        held.register("", 2)


def test_an_unknown_name_is_answered_with_the_nearest():
    held = Registry("thing", "; or FILE.py:NAME")
    held.register("norm", 1)
    for wrong in (lambda: held["nrom"], lambda: held.unregister("nrom")):
        with pytest.raises(ValueError, match=r"thing is 'nrom', which is unknown; did you mean 'norm'\?; or FILE.py"):
            wrong()
