"""docs/leaderboard.md: made from the results beside it, and nothing else."""

from benchmarks.leaderboard import NETWORKS, photographs
from benchmarks.leaderboard_page import DOCS, RESULTS, page
from captum_extract_aggregate.evaluation.choice.board import boards_in


def test_the_page_is_what_the_results_say():
    paths = sorted(RESULTS.glob("*.json"))
    assert {path.stem for path in paths} <= set(NETWORKS)
    text = page(boards_in(paths), list(NETWORKS))
    assert (DOCS / "leaderboard.md").read_text(encoding="utf-8") == text
    for name in NETWORKS:
        assert f"## {name}\n" in text


def test_the_photographs_are_square():
    assert all(picture.width == picture.height for picture in photographs().values())
