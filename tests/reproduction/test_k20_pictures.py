"""K20's figures of maps."""

import pytest

from captum_extract_aggregate.evaluation import MethodPlan
from captum_extract_aggregate.reproduction import charts, k20_pictures
from captum_extract_aggregate.reproduction.k20_pictures import fig1, fig2, fig5


@pytest.fixture
def shown(monkeypatch):
    """What would be drawn: rows of titles."""
    found = []

    def tiles(path, rows, title):
        found.append({row: [(tile.title, tile.map) for tile in own] for row, own in rows.items()})

    monkeypatch.setattr(k20_pictures, "tiles", tiles)
    return found


def test_classes_by_methods_or_layers(setting, monkeypatch):
    asked = []
    monkeypatch.setattr(k20_pictures, "picture_grid", lambda *given, worst: asked.append((given[1], worst)))
    fig1(setting)
    fig2(setting)
    (methods, worst), (layers, also) = asked
    assert worst
    assert also
    assert [m.label for m in methods][:3] == ["GradCAM", "FullGrad", "GradCAM++"]
    assert [m.layers for m in layers] == [(name,) for name in reversed(setting.layers)]
    assert [m.label for m in layers] == ["GradCAM_Pos", "GradCAM_Pos B3", "GradCAM_Pos B2", "GradCAM_Pos B1"]


def test_the_randomised_network_is_the_half_and_the_whole_one(setting, shown):
    fig5(setting)
    assert len(shown) == 2  # readings
    for rows in shown:
        assert list(rows) == ["original", "half", "all blocks random"]
        assert len({len(row) for row in rows.values()}) == 1
        first = [row[0][1] for row in rows.values()]
        assert not first[0].allclose(first[2])
    label, map_ = shown[0]["original"][0]
    assert label == "GradCAM++"
    x = setting.first.x[None]
    plan = MethodPlan("gradcam++", layers=setting.layers[-1:])
    assert map_.equal(setting.method(plan)(x, setting.best(x))[0])  # the network is as it was
    assert charts.Tile
