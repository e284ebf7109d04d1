"""What a function of one's own is made of: the parts of its file that it uses, and of the files that it imports.

A file may hold many functions: a change to one of them, or a new one beside them, is none of the others.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from torch import nn

from captum_extract_aggregate._common.own_code import is_foreign

_ALL = "*"
_BY_TEXT = {"eval", "exec", "globals", "locals", "vars"}  # which may use anything of the file


def sources(spec: str, model: nn.Module | None = None) -> dict[str, str]:
    """Returns a digest for each of the user's files that the function in `FILE.py:FUNCTION` or `MODULE:FUNCTION` uses.

    Args:
        spec: which function. What is installed is not looked into: its version stands for it.
        model: what it returned; the classes of its modules count, too.
    """
    where, _, name = spec.rpartition(":")
    wanted: dict[Path, set[str]] = {}
    if where.endswith(".py"):
        _follow(Path(where), "", name, wanted)
    elif where:
        _follow_module(where, name, wanted)
    for kind in {type(module) for module in model.modules()} if model is not None else ():
        _follow_module(kind.__module__, kind.__qualname__.partition(".")[0], wanted)
    return {str(path): _digest(path, names) for path, names in sorted(wanted.items())}


def code_of(name: str, function: Callable[..., object]) -> dict[str, str]:
    """Returns the digests of a user's function: by `sources` if a plan names its file or it has one, else of its
    text."""
    if ":" in name:
        return sources(name)
    path = _path_of(function)
    if path is not None:
        return sources(f"{path}:{function.__name__}")
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):  # nothing is known of how it was written
        return {}
    return {name: hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}


def _path_of(function: Callable[..., object]) -> Path | None:
    """Returns the user's file that a function stands in, under a name of its own."""
    name = getattr(function, "__name__", "")
    try:
        path = Path(inspect.getsourcefile(function) or "")
    except TypeError:
        return None
    return path if path.suffix == ".py" and path.is_file() and name.isidentifier() else None


def _digest(path: Path, names: set[str]) -> str:
    file = _parsed(path, path.stat().st_mtime_ns)
    texts = [s.text for s in file if _ALL in names or not s.binds or s.binds & names]
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()


# --- Statements ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Statement:
    """Holds a statement of a module: the names it binds (none: it acts at once), those it uses, and what it imports."""

    text: str
    binds: frozenset[str]
    uses: frozenset[str]
    imports: tuple[tuple[str, str], ...]  # modules, each with a name or "*"


@lru_cache(maxsize=64)
def _parsed(path: Path, changed: int) -> tuple[_Statement, ...]:
    content = path.read_bytes()
    lines = content.decode("utf-8", "replace").splitlines()
    return tuple(_statement(node, lines) for node in ast.parse(content).body if _acts(node))


def _acts(node: ast.stmt) -> bool:
    """Tells whether a statement acts; docstrings, and what runs only where the file is the program, do not."""
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)
    return not (isinstance(node, ast.If) and any(getattr(n, "id", "") == "__name__" for n in ast.walk(node.test)))


def _statement(node: ast.stmt, lines: list[str]) -> _Statement:
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    inside = list(ast.walk(node))
    return _Statement(
        "\n".join(line.rstrip() for line in lines[first - 1 : node.end_lineno]),
        frozenset(_bound(node)),
        frozenset(n.id for n in inside if isinstance(n, ast.Name)),
        tuple(imported for n in inside for imported in _imported(n)),
    )


def _bound(node: ast.AST) -> Iterator[str]:
    """Yields the module's names that a statement binds, or changes an attribute or an item of."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
    elif isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.For)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name))
    elif isinstance(node, ast.NamedExpr):
        yield node.target.id
    if isinstance(node, (ast.If, ast.Try, ast.With, ast.For, ast.While)):
        for child in ast.iter_child_nodes(node):
            yield from _bound(child)
    elif isinstance(node, ast.ExceptHandler):
        for child in node.body:
            yield from _bound(child)


def _imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Import):
        yield from ((alias.name, _ALL) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (("." * node.level + (node.module or ""), alias.name) for alias in node.names)


# --- From file to file -----------------------------------------------------------------------------------------------


def _follow(path: Path, package: str, name: str, wanted: dict[Path, set[str]]) -> None:
    """Adds all that a name of a file depends on."""
    if name in wanted.get(path, ()) or is_foreign(path):
        return
    statements = _parsed(path, path.stat().st_mtime_ns)
    known = {bound for s in statements for bound in s.binds}
    name = name if name in known else _ALL  # what is bound in a way that cannot be seen
    if name in wanted.setdefault(path, set()):
        return
    wanted[path].add(name)
    for s in statements:
        if name == _ALL or not s.binds or name in s.binds:
            for module, imported in s.imports:
                _follow_import(module, imported, package, wanted)
            for used in {_ALL} if s.uses & _BY_TEXT else (s.uses | s.binds) & known:
                _follow(path, package, used, wanted)


def _follow_import(module: str, name: str, package: str, wanted: dict[Path, set[str]]) -> None:
    below = _absolute(module + ("" if module.endswith(".") else ".") + name, package)
    if name != _ALL and _file_of(below) is not None:  # `from package import module`
        _follow_module(below, _ALL, wanted)
    else:
        _follow_module(_absolute(module, package), name, wanted)


def _absolute(name: str, package: str) -> str:
    with contextlib.suppress(ImportError):  # beyond the top
        return importlib.util.resolve_name(name, package or None)
    return ""


def _follow_module(name: str, wanted_name: str, wanted: dict[Path, set[str]]) -> None:
    path = _file_of(name)
    if path is not None:
        is_package = path.name == "__init__.py"
        _follow(path, name if is_package else name.rpartition(".")[0], wanted_name, wanted)


def _file_of(name: str) -> Path | None:
    """Returns the user's file that holds a module."""
    file: str | None = None
    module = sys.modules.get(name)
    if isinstance(module, ModuleType):
        file = getattr(module, "__file__", None)
    elif name:
        with contextlib.suppress(Exception):  # whatever a package's own code raises
            spec = importlib.util.find_spec(name)
            file = spec.origin if spec is not None else None
    if not file or not file.endswith(".py") or not Path(file).is_file() or is_foreign(Path(file)):
        return None
    return Path(file)
