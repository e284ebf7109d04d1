"""Every figure and table of the papers: counted from their captions, and what stands for each."""

import re
from pathlib import Path

import pytest

from captum_extract_aggregate.reproduction.published import PAPERS, PUBLISHED, counted, published_table

NUMBERS = {
    "R20": [f"Fig. {i}" for i in range(1, 16)] + [f"Table {i}" for i in range(1, 7)],
    "K20": [f"Fig. {i}" for i in range(1, 7)] + [f"Table {i}" for i in range(1, 5)],
    "G20": [f"Fig. {i}" for i in range(1, 8)] + [f"Fig. S{i}" for i in range(1, 17)],
}


@pytest.mark.parametrize("paper", PAPERS)
def test_none_lacks_and_none_is_twice(paper):
    assert [p.number for p in PUBLISHED if p.paper == paper] == NUMBERS[paper]


def test_names_follow_from_numbers():
    names = {(p.paper, p.number): p.experiment for p in PUBLISHED}
    assert names["R20", "Fig. 5"] == "r20-fig5"
    assert names["K20", "Table 1"] == "k20-table1"
    assert names["G20", "Fig. S8"] == "g20-fig-s8"
    assert names["R20", "Fig. 1"] == ""


def test_they_are_counted_and_tabulated():
    done, count = counted()
    assert count == sum(map(len, NUMBERS.values()))
    assert done == count - len([p for p in PUBLISHED if p.why_not])
    table = published_table().splitlines()
    assert len(table) == 2 + count
    assert len(re.findall(r"not: ", published_table())) == count - done
    assert len(published_table("K20").splitlines()) == 2 + 10
    readme = Path(__file__).parents[2].joinpath("README.md").read_text(encoding="utf-8")
    assert f"{done} of the papers' {count} figures and tables" in readme
