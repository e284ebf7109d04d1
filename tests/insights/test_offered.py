"""What the page offers, and what it does not."""

import re

import pytest

from captum_extract_aggregate import insights
from tests.insights.given import needs_insights, of_insights


@needs_insights
class TestSeveralInputs:
    def test_what_nobody_offers_is_refused_without_a_server_too(self, model, x):
        insights.register(model, x)
        for name, arguments, said in (
            ("Feature Ablation", {"patches": 1_000_000}, "patches is 1000000; expected a whole number from 1 to 32"),
            ("rectgrad", {"percentile": 101}, "percentile is 101; expected a whole number from 1 to 100"),
            ("lrp", {"gamma": "nan"}, "gamma is 'nan'; expected one of '0'"),
            ("normgrad", {"virtual": "no"}, "'virtual', which is unknown"),
        ):
            with pytest.raises(ValueError, match=re.escape(said)):
                of_insights(model, (x,), name, **arguments)
