"""The table of all methods, made from what they are registered with."""

from __future__ import annotations

from collections.abc import Callable

from captum_extract_aggregate.attr.by_name import METHODS, Method
from captum_extract_aggregate.attr.extract_aggregate.aggregate import list_aggregates

POOLED = "not in front of global pooling"  # there the gradient is the same at every position
COLUMNS: dict[str, Callable[[str, Method], str]] = {}


def _column(title: str) -> Callable[[Callable[[str, Method], str]], Callable[[str, Method], str]]:
    def add(cell: Callable[[str, Method], str]) -> Callable[[str, Method], str]:
        COLUMNS[title] = cell
        return cell

    return add


@_column("method")
def _name(name: str, method: Method) -> str:
    return f"`{name}`"


@_column("class")
def _class(name: str, method: Method) -> str:
    return f"`{class_name(name, method)}`"


@_column("extract")
def _extract(name: str, method: Method) -> str:
    return method.formula.extract if method.formula else ""


@_column("aggregate")
def _aggregate(name: str, method: Method) -> str:
    return method.formula.aggregate if method.formula else ""


@_column("weights")
def _weights(name: str, method: Method) -> str:
    return method.formula.weights if method.formula else ""


@_column("layers")
def _layers(name: str, method: Method) -> str:
    return method.formula.layers if method.formula else ""


@_column("sign")
def _sign(name: str, method: Method) -> str:
    return method.formula.sign if method.formula else ""


@_column("depends on the class")
def dependence(name: str, method: Method) -> str:
    """Returns where the map depends on the class that is explained."""
    if method.formula is not None and not method.formula.of_class:
        return "nowhere"
    return POOLED if method.before_the_last else "everywhere"


def class_name(name: str, method: Method) -> str:
    """Returns the class that a method is, or that its function makes."""
    if isinstance(method.make, type):
        return method.make.__name__
    made = method.make.__annotations__.get("return", name)
    return made if isinstance(made, str) else getattr(made, "__name__", name)


def method_table(
    columns: tuple[str, ...] = tuple(COLUMNS), chosen: Callable[[str, Method], bool] = lambda name, method: True
) -> str:
    """Returns the table of the methods that are chosen, in Markdown, one row each.

    Example:
        >>> from captum_extract_aggregate.attr.method_table import method_table
        >>> table = method_table(("class", "extract", "aggregate"), lambda name, method: name == "normgrad")
        >>> print(table)
        | class | extract | aggregate |
        |---|---|---|
        | `NormGrad` | conv1x1 | norm |
    """
    rows = [[COLUMNS[c](name, method) for c in columns] for name, method in METHODS.items() if chosen(name, method)]
    lines = [columns, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|" + "---|" * len(columns), *body])


def is_of_gradients(name: str, method: Method) -> bool:
    """Tells whether a method makes a map of each layer by one cell of the grid, of activations and plain gradients."""
    formula = method.formula
    if formula is None or formula.layers or formula.weights.startswith("R"):
        return False
    return formula.aggregate in list_aggregates() and "," not in formula.extract
