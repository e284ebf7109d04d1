"""What the page may ask for, and what is refused."""

import json

import pytest

from captum_extract_aggregate.live.asked import MOST_MAPS, Choice, Doubt, Look, Maps, read

MAP = {"model": "a", "method": "normgrad"}


def test_what_is_asked():
    asked = read(Maps, json.dumps({"picture": "p", "maps": [MAP | {"target": 3, "layer": "b"}, MAP]}).encode())
    assert asked.maps == [Choice(model="a", method="normgrad", layer="b", target=3), Choice(**MAP)]
    assert read(Look, b'{"picture": "p", "model": "m"}') == Look(picture="p", model="m")
    assert read(Doubt, json.dumps({"picture": "p", "map": MAP}).encode()).map.target is None
    assert Choice(**MAP, arguments={"virtual_identity": "no"}).values() == {"virtual_identity": False}
    assert Choice(model="a", method="rectgrad", arguments={"percentile": 90}).values() == {"percentile": 90}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target": -1}, "maps.0.target"),
        ({"target": "3"}, "maps.0.target"),
        ({"target": True}, "maps.0.target"),
        ({"layer": "x" * 301}, "maps.0.layer"),
        ({"layer": None}, "maps.0.layer"),
        ({"more": 1}, "maps.0.more"),
        ({"arguments": {str(i): 1 for i in range(9)}}, "maps.0.arguments"),
        ({"arguments": {"a": 1.5}}, "maps.0.arguments"),
        ({"arguments": {"a": [1]}}, "maps.0.arguments"),
    ],
)
def test_what_has_another_form_is_refused(change, said):
    with pytest.raises(ValueError, match=said) as told:
        read(Maps, json.dumps({"picture": "p", "maps": [MAP | change]}).encode())
    assert "\n" not in str(told.value)
    for body in (b"", b"[]", b"{", b"\xff", b'{"picture": "p", "maps": []}', b"[" * 100_000):
        with pytest.raises(ValueError, match=":"):
            read(Maps, body)
    with pytest.raises(ValueError, match="maps: "):
        read(Maps, json.dumps({"picture": "p", "maps": [MAP] * (MOST_MAPS + 1)}).encode())


@pytest.mark.parametrize(
    ("method", "arguments", "said"),
    [
        ("gradcamm", {}, "did you mean 'gradcam'"),
        ("os.py:System", {}, "method is 'os.py:System', which is unknown"),  # no file is run
        ("rectgrad", {"percentile": 101}, "from 1 to 100"),
        ("rectgrad", {"percentile": "90"}, "from 1 to 100"),
        ("lrp", {"gamma": "nan"}, "expected one of '0'"),
        ("gradcam", {"gamma": "0"}, "an argument of gradcam is 'gamma', which is unknown"),
    ],
)
def test_what_the_page_does_not_offer_is_refused(method, arguments, said):
    with pytest.raises(ValueError, match=said):
        Choice(model="a", method=method, arguments=arguments).values()
