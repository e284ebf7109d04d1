"""How far a work is: a line now and then where there is no terminal, and a bar where there is one."""

import sys
import threading

import pytest
from tqdm.auto import tqdm

from captum_extract_aggregate._common import progress
from captum_extract_aggregate._common.progress import Lines


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves on."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_line_now_and_then(clock, capsys):
    with progress.progress(100, "image", "Evaluation") as bar:
        assert isinstance(bar, Lines)  # pytest's standard error is no terminal
        for _ in range(10):
            clock.now += 12
            bar.update(8)
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "Evaluation: 0 of 100 images",
        "Evaluation: 8 of 100 images, 00:12 so far, about 02:18 left",
        "Evaluation: 32 of 100 images, 00:48 so far, about 01:42 left",
        "Evaluation: 56 of 100 images, 01:24 so far, about 01:06 left",
        "Evaluation: 80 of 100 images, 02:00 so far, about 00:30 left",
    ]


def test_the_start_is_told_before_the_first_step_ends(capsys):
    with progress.progress(40, "image", "Evaluation"):
        assert capsys.readouterr().err == "Evaluation: 0 of 40 images\n"


def test_what_has_nothing_to_do_or_is_not_shown_says_nothing(clock, capsys):
    with progress.progress(0, "image", "Evaluation"):
        clock.now += 99
    with progress.progress(10, "image", "Evaluation", show=False) as bar:
        clock.now += 99
        bar.update(10)
    assert capsys.readouterr().err == ""


def test_what_is_not_shown_takes_no_lock():
    """Where an interrupt has left tqdm's lock with a thread, another one waits for it for ever."""
    done = []

    def work():
        with progress.progress(2, "image", "Evaluation", show=False) as bar:
            done.extend(progress.each("ab", "Letters", show=False))
            bar.update(2)

    with tqdm.get_lock():
        other = threading.Thread(target=work, daemon=True)
        other.start()
        other.join(20)
    assert done == ["a", "b"]


def test_each_item_has_its_step(capsys):
    assert list(progress.each("ab", "Letters", show=True)) == ["a", "b"]
    assert "Letters: 100%" in capsys.readouterr().err


def test_a_bar_in_a_terminal(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.progress(3, "image", "Evaluation") as bar:
        assert not isinstance(bar, Lines)
        bar.update(3)
    assert bar.n == 3
