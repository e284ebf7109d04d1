"""The bases of this package's methods: Captum's own, whatever checkers are told."""

import captum.attr

from captum_extract_aggregate.attr import layer_types


def test_the_bases_are_captum_s_own_where_the_code_runs():
    assert layer_types.LayerAttribution is captum.attr.LayerAttribution
    assert layer_types.GradientAttribution is captum.attr.GradientAttribution


def test_a_method_that_says_nothing_of_its_layer_is_one_of_any():
    assert layer_types.L.__covariant__
    assert layer_types.L.__default__ is not None
