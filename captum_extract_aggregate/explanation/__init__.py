"""One call for one picture: `explain(model, "dog.jpg")`."""

from captum_extract_aggregate.explanation.explain import explain
from captum_extract_aggregate.explanation.explanation import Explanation

__all__ = ["Explanation", "explain"]
