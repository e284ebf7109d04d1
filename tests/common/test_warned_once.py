"""Each distinct warning is shown once in a run."""

import warnings

import pytest

from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._common.warned_once import show_warnings_once


def warn(text):
    with warnings.catch_warnings():  # makes Python forget what it has shown
        pass
    warnings.warn(text, stacklevel=2)


def warn_of(texts):
    for text in texts:
        warn(text)


def test_each_text_is_shown_once_until_the_end_of_a_run():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        plain = warnings.showwarning
        warn_of("aba")
        assert [str(w.message) for w in caught] == ["a", "b", "a"], "else this test shows nothing"
        for _ in range(2):  # a run of its own each
            caught.clear()
            with Undo() as undo, undo:
                show_warnings_once(undo)
                warn_of("abab")
            assert [str(w.message) for w in caught] == ["a", "b"]
        assert warnings.showwarning is plain


def test_a_filter_that_makes_errors_of_warnings_still_does():
    with warnings.catch_warnings(), Undo() as undo, undo:
        warnings.simplefilter("error")
        show_warnings_once(undo)
        with pytest.raises(UserWarning, match="a"):
            warn("a")
