"""Pictures of any map."""

import io
import warnings

import numpy as np
import pytest
import torch
from captum.attr import visualization as captums
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from captum_extract_aggregate.visualization.blending import SIGNS
from captum_extract_aggregate.visualization.figures import SCALINGS, grid, overlaid, overlay, scale_of

IMAGE = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))
MAPS = {
    "coarse": torch.rand(1, 3, 4),
    "fine": torch.rand(24, 32),
    "channels": torch.randn(3, 24, 32),
    "negative": -torch.rand(1, 3, 4),
    "half": torch.randn(1, 3, 4).half(),
    "bfloat16": torch.randn(1, 3, 4).bfloat16(),
    "integers": torch.arange(12).reshape(1, 3, 4),
    "zeros": torch.zeros(1, 3, 4),
    "ones": torch.ones(1, 3, 4),
    "nan": torch.full((1, 3, 4), torch.nan),
    "one nan": torch.tensor([[[0.0, 1.0], [torch.nan, -1.0]]]),
    "infinite": torch.full((1, 3, 4), torch.inf),
    "tiny": torch.rand(1, 3, 4) * 1e-30,
    "huge": torch.rand(1, 3, 4) * 1e30,
    "single": torch.rand(1, 1, 1),
}


def pixels(figure):
    FigureCanvasAgg(figure).draw()
    return np.asarray(figure.canvas.buffer_rgba())


@pytest.mark.parametrize("name", MAPS)
def test_any_map_makes_a_picture_without_a_warning(name):
    for scaling in ("map", "all"):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            warnings.simplefilter("error", RuntimeWarning)
            figure = grid(IMAGE, {"method": {"layer": MAPS[name]}}, "title", scaling=scaling)
            shown = pixels(figure)
        assert shown.std() > 1


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("name", ["zeros", "ones", "negative", "nan", "channels"])
def test_any_sign_of_any_map(name, sign):
    axes = Figure().subplots()
    overlay(axes, IMAGE, MAPS[name], sign=sign, outlier_perc=2)
    assert pixels(axes.figure).std() > 1
    low, high = axes.images[-1].get_clim()
    assert high > 0
    assert low == (-high if sign == "all" else 0)


def test_captum_dies_on_maps_that_are_drawn_here():
    picture = IMAGE.permute(1, 2, 0).numpy()
    for map_, sign in ((np.zeros((24, 32, 1)), "all"), (-np.ones((24, 32, 1)), "positive")):
        with pytest.raises((AssertionError, IndexError)):
            captums.visualize_image_attr(map_, picture, "blended_heat_map", sign, use_pyplot=False)
        overlay(Figure().subplots(), IMAGE, torch.from_numpy(map_[..., 0]), sign=sign)


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("outlier_perc", [0, 2, 20])
def test_what_captum_draws_is_drawn_alike(sign, outlier_perc):
    """The same pixels, for a map that Captum can draw and the same colour map."""
    map_ = torch.randn(24, 32, generator=torch.Generator().manual_seed(2))
    ours, theirs = Figure(figsize=(3, 3)), Figure(figsize=(3, 3))
    overlay(ours.subplots(), IMAGE, map_, sign, None, outlier_perc, alpha=0.5, cmap="viridis", blend="uniform")
    captums.visualize_image_attr(
        map_[..., None].numpy(),
        IMAGE.permute(1, 2, 0).numpy(),
        "blended_heat_map",
        sign,
        (theirs, theirs.subplots()),
        outlier_perc,
        "viridis",
        0.5,
        use_pyplot=False,
    )
    theirs.axes[0].set_axis_off()
    theirs.axes[0].images[0].set_clim(0, 255)  # Captum stretches the contrast of the image
    first, second = ours.axes[0].images[-1], theirs.axes[0].images[-1]
    shown = [i.to_rgba(i.get_array(), bytes=True).astype(int) for i in (first, second)]
    assert np.abs(shown[0] - shown[1]).max() <= 1
    assert np.abs(pixels(ours).astype(int) - pixels(theirs)).max() <= 2


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40), st.floats(0, 99))
def test_scale_is_a_magnitude_of_the_map_and_falls_with_outliers(values, percent):
    map_ = torch.tensor(values)[None]
    largest = scale_of([map_])
    assert largest == map_.abs().max()
    assert 0 <= scale_of([map_], outlier_perc=percent) <= largest


def test_scales_of_outliers_and_several_maps():
    map_ = torch.tensor([[1.0, 1.0, 1.0, 97.0]])
    assert scale_of([map_], outlier_perc=97.5) == 1
    assert scale_of([map_], outlier_perc=50) == 97
    assert scale_of([map_, -2 * map_]) == 194
    assert scale_of([map_, -2 * map_], "positive") == 97
    assert scale_of([]) == 0
    with pytest.raises(ValueError, match="outlier_perc is 100; expected a percentage"):
        scale_of([map_], outlier_perc=100)


def test_rows_and_columns_are_where_they_are_named():
    corner = torch.zeros(1, 4, 4)
    corner[0, 0, 0] = 1
    figure = grid(
        IMAGE,
        {
            "first": {"a": corner, "a.very.long.dotted.layer_name": corner},
            "second": {"a": -corner, "a.very.long.dotted.layer_name": corner},
        },
        boxes=torch.tensor([[2.0, 3, 10, 12]]),
    )
    axes = figure.axes
    assert [a.get_title() for a in axes[:3]] == ["input", "a", "a.very.long.dotted.\nlayer_name"]
    assert [t.get_text() for a in axes for t in a.texts] == ["first", "second"]
    assert len(axes[0].patches) == 1
    maps = [a.images[-1] for a in (axes[1], axes[2], axes[4], axes[5])]
    assert [m.get_cmap().name for m in maps] == ["inferno", "inferno", "purple_orange", "purple_orange"]
    assert [m.get_array().argmax() for m in maps[:2]] == [0, 0]
    assert maps[2].get_array().argmin() == 0
    assert maps[2].get_clim() == (-1, 1)


def test_names_are_no_formulas():
    name = r"$\no formula$"
    figure = grid(torch.rand(3, 8, 8), {name: {name: torch.rand(1, 4, 4)}}, title=name)
    figure.savefig(io.BytesIO())  # where they would be parsed
    assert name in [axes.get_title() for axes in figure.axes]


@pytest.mark.parametrize(
    ("scaling", "ends"),
    [("map", [1, 2, 4, 8]), ("row", [2, 2, 8, 8]), ("column", [4, 8, 4, 8]), ("all", [8, 8, 8, 8])],
)
def test_what_shares_a_scale_and_that_it_is_said(scaling, ends):
    one = torch.ones(1, 2, 2)
    figure = grid(IMAGE, {"a": {"x": one, "y": 2 * one}, "b": {"x": 4 * one, "y": 8 * one}}, scaling=scaling)
    assert [figure.axes[i].images[-1].get_clim()[1] for i in (1, 2, 4, 5)] == ends
    assert SCALINGS[scaling] in figure._supxlabel.get_text()


def test_an_image_for_each_row():
    other = torch.zeros(1, 10, 10)
    figure = grid({"a": IMAGE, "b": other}, {"a": {"x": MAPS["fine"]}, "b": {"x": MAPS["coarse"]}})
    assert figure.axes[0].images[0].get_array().shape == (24, 32, 3)
    assert figure.axes[2].images[0].get_array().shape == (10, 10, 3)
    assert figure.axes[3].images[-1].get_array().shape == (10, 10)


def test_what_a_row_lacks_may_be_told():
    maps = {"a": {"x": MAPS["coarse"], "y": MAPS["coarse"]}, "b": {"x": MAPS["coarse"], "y": MAPS["coarse"]}}
    del maps["b"]["y"]
    figure = grid(IMAGE, maps, missing="not here")
    told = [axes for axes in figure.axes if "not here" in [t.get_text() for t in axes.texts]]
    assert len(told) == 1
    assert not told[0].images


def test_rows_may_lack_columns():
    figure = grid(IMAGE, {"a": {"x": MAPS["fine"]}, "b": {"y": MAPS["coarse"]}})
    assert [len(figure.axes[i].images) for i in (1, 2, 4, 5)] == [2, 0, 0, 2]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((IMAGE, {}), ValueError, "maps is empty"),
        ((IMAGE, {"a": torch.rand(2, 2)}), ValueError, "expected maps by row and column"),
        (
            (IMAGE.expand(2, -1, -1, -1), {"a": {"x": torch.rand(2, 2)}}),
            TypeError,
            r"image is a torch.float32 \(2, 3, 24, 32\)",
        ),
        (({"b": IMAGE}, {"a": {"x": torch.rand(2, 2)}}), ValueError, "image of the row is 'a'"),
        ((IMAGE, {"a": {"x": torch.rand(2, 1, 2, 2)}}), TypeError, r"a map is a tensor \(2, 1, 2, 2\)"),
        ((IMAGE, {"a": {"x": "map"}}), TypeError, "a map is a str"),
        ((IMAGE, {"a": {"x": torch.rand(2, 2)}}, "", None, "rows"), ValueError, "did you mean 'row'"),
        ((IMAGE, {"a": {"x": torch.rand(2, 2)}}, "", None, "row", "positiv"), ValueError, "did you mean 'positive'"),
    ],
)
def test_wrong_uses(arguments, error, said):
    with pytest.raises(error, match=said):
        grid(*arguments)


def test_what_is_cut_is_said():
    said = [
        grid(IMAGE, {"a": {"x": torch.randn(4, 4)}}, **arguments).get_supxlabel()
        for arguments in ({"outlier_perc": 50}, {"sign": "negative"}, {"sign": "positive"}, {"sign": "absolute_value"})
    ]
    assert "after the brightest 50 % of the sum" in said[0]
    assert "negative values alone" in said[1]
    assert "positive values alone" in said[2]
    assert "magnitudes, dark" in said[3]


def test_pictures_of_bytes_are_refused():
    with pytest.raises(TypeError, match=r"image is a torch\.uint8"):
        grid((IMAGE * 255).byte(), {"a": {"x": torch.rand(4, 4)}})


def test_a_batch_of_one_is_what_it_holds():
    plain, batched = (grid(i, {"a": {"x": m}}) for i, m in ((IMAGE, MAPS["fine"]), (IMAGE[None], MAPS["fine"][None])))
    assert np.array_equal(plain.axes[1].images[1].get_array(), batched.axes[1].images[1].get_array())


@pytest.mark.parametrize(("scaling", "colours"), [("row", {"inferno", "purple_orange"}), ("column", {"purple_orange"})])
def test_a_row_and_maps_that_share_a_scale_share_colours(scaling, colours):
    maps = {"a": {"x": torch.rand(4, 4), "y": torch.randn(4, 4)}, "b": {"x": torch.rand(4, 4), "y": torch.rand(4, 4)}}
    figure = grid(IMAGE, maps, scaling=scaling)
    rows = [{figure.axes[i].images[1].get_cmap().name for i in own} for own in ((1, 2), (4, 5))]
    assert [len(row) for row in rows] == [1, 1]
    assert set.union(*rows) == colours


def test_maps_that_join_all_layers_share_a_row():
    maps = {name: {"all layers": MAPS["fine"]} for name in ("FullGrad", "combined", "aggregated")}
    maps = {"plain": {"x": MAPS["fine"], "y": MAPS["coarse"]}, **maps}
    figure = grid(IMAGE, maps)
    titles = [[axes.get_title() for axes in figure.axes[i : i + 3]] for i in (0, 3, 6)]
    assert titles[0] == ["input", "x", "y"]
    assert titles[1] == ["", "FullGrad\nall layers", "combined\nall layers"]
    assert titles[2] == ["", "aggregated\nall layers", ""]
    assert len(figure.axes) == 9 + 3  # a colour bar for each row


def test_colour_bars_say_what_the_colours_mean():
    maps = {"a": {"x": torch.rand(4, 4)}, "b": {"x": torch.randn(4, 4)}}

    def said(scaling):
        bars = grid(IMAGE, maps, scaling=scaling).axes[-2:]
        return [[label.get_text() for label in bar.get_yticklabels()] for bar in bars]

    assert said("map") == [["0", "largest"], ["against", "0", "for"]]
    end = f"{scale_of([maps['b']['x']]):.3g}"
    assert said("row")[1] == [f"-{end}", "0", end]


def test_the_picture_keeps_its_colours_where_the_map_says_nothing():
    map_ = torch.zeros(1, 24, 32)
    map_[0, 5, 7], map_[0, 6, 9] = 2, -2
    found = overlaid(IMAGE, map_)
    expected = (IMAGE + IMAGE.mean(0)).permute(1, 2, 0).mul(255 / 2).round().byte().numpy()
    differs = (found != expected).any(2)
    assert sorted(zip(*differs.nonzero())) == [(5, 7), (6, 9)]
    assert found[5, 7, 0] > 200 > found[6, 9, 0]  # orange for the class, purple against it
    axes = Figure(figsize=(3.2, 2.4), dpi=100).add_axes((0, 0, 1, 1))
    overlay(axes, IMAGE, map_)
    drawn = pixels(axes.figure)[..., :3].astype(int)
    assert np.abs(drawn[5::10, 5::10] - found).max() <= 2


@pytest.mark.parametrize(
    ("map_", "said"),
    [(torch.zeros(1, 4, 4), ["0 everywhere"]), (torch.ones(1, 4, 4), ["the same everywhere"]), (MAPS["fine"], [])],
)
def test_a_map_that_is_the_same_everywhere_says_so(map_, said):
    axes = Figure().subplots()
    overlay(axes, IMAGE, map_)
    assert [text.get_text() for text in axes.texts] == said


def test_a_notebook_shows_a_figure_that_pyplot_never_saw():
    figure = grid(IMAGE, {"a": {"x": MAPS["fine"]}})
    assert Image.open(io.BytesIO(figure._repr_png_())).size[0] > 100
