"""What goes away still works, and tells the line that uses it what to take instead."""

import pytest

from captum_extract_aggregate._common.deprecation import deprecated, warn_deprecated


@deprecated("new", since="0.2", removed="0.4")
def old(a, *, b=2):
    """Adds."""
    return a + b


def test_a_deprecated_function_works_and_warns_where_it_is_called():
    with pytest.warns(
        FutureWarning, match=r"old is deprecated since 0\.2 and will be removed in 0\.4; use new"
    ) as caught:
        assert old(1, b=3) == 4
    assert caught[0].filename == __file__
    assert (old.__name__, old.__doc__) == ("old", "Adds.")


def test_an_argument_warns_where_the_user_wrote_it():
    def function(old=None):
        if old is not None:
            warn_deprecated("old=", "new=", since="0.2", removed="0.4")

    with pytest.warns(FutureWarning, match="old= is deprecated") as caught:
        function(old=1)
    assert caught[0].filename == __file__
