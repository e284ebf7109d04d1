"""The rules that a user composes are those of the propagation methods, and composites of them."""

from captum_extract_aggregate import rules
from captum_extract_aggregate.attr.propagation import composites, lrp_rules


def test_every_rule_and_composite_is_there():
    own = {**vars(composites), **vars(lrp_rules)}
    assert {getattr(rules, name) for name in rules.__all__} == {own[name] for name in rules.__all__}
    concrete = {
        name
        for name, value in own.items()
        if isinstance(value, type)
        and issubclass(value, (rules.LinearRule, rules.Composite))
        and not name.startswith("_")
    }
    assert set(rules.__all__) == concrete
