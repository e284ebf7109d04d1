"""The rules that a user composes are those of the propagation methods."""

from captum_extract_aggregate import rules
from captum_extract_aggregate.attr.propagation import lrp_rules


def test_every_rule_of_layer_wise_relevance_propagation_is_there():
    assert {getattr(rules, name) for name in rules.__all__} == {getattr(lrp_rules, name) for name in rules.__all__}
    concrete = {
        name
        for name, value in vars(lrp_rules).items()
        if isinstance(value, type) and issubclass(value, rules.LinearRule) and not name.startswith("_")
    }
    assert set(rules.__all__) == concrete
