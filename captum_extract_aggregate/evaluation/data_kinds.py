"""The kinds of data sets that plans name: one registry, which says which keys of a plan belong to each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from captum_extract_aggregate._common.registry import Registry

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

SOME = ("n", "start", "every")
PICTURES = ("resize", "size", "mean", "std", *SOME)


@dataclass(frozen=True)
class DataKind:
    """Describes a kind of data sets.

    Args:
        open: for the package's own, finds the images for a plan's data and a preprocessing.
        make: for a user's, returns a data set, as the function of `custom` data does.
        keys: the keys of a plan's data that say something of it.
        needed: those that it cannot do without.
        tells: whether its own errors already tell where the data was looked for.
    """

    open: Callable[..., Any] | None = None
    make: Callable[..., Any] | None = None
    keys: tuple[str, ...] = ("arguments", *PICTURES)
    needed: tuple[str, ...] = ()
    tells: bool = False


DATA_KINDS: Registry[DataKind] = Registry("kind of data", "unregister_dataset")


def register_dataset(name: str, overwrite: bool = False) -> Callable[[FunctionT], FunctionT]:
    """Makes a data set available as `data.kind` of plans, for the whole process.

    The function takes `data.arguments` by name and returns a data set of `(tensor or PIL picture, class index or
    PointingPairs or None)`, as that of `kind = "custom"`.

    Args:
        name: as plans will name it.
        overwrite: whether a kind that is known already is exchanged.

    Raises:
        ValueError: for a name that is taken, unless `overwrite` is True.
        TypeError: for a name that is no string.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.registry import list_datasets, register_dataset, unregister_dataset
        >>> @register_dataset("noise")
        ... def noise(count=4):
        ...     return [(torch.randn(3, 96, 96), 3)] * count
        >>> list_datasets()[-1]
        'noise'
        >>> unregister_dataset("noise")
    """
    DATA_KINDS.check_free(name, overwrite)

    def register(function: FunctionT) -> FunctionT:
        DATA_KINDS.register(name, DataKind(make=function), overwrite)
        return function

    return register


def unregister_dataset(name: str) -> None:
    """Forgets a kind of data, or brings back this package's own, if it was overwritten.

    Raises:
        ValueError: for a name that is unknown.
    """
    DATA_KINDS.unregister(name)


def list_datasets() -> list[str]:
    """Returns the kinds of data: this package's own first, then those registered.

    Example:
        >>> from captum_extract_aggregate.registry import list_datasets
        >>> list_datasets()
        ['scenes', 'voc', 'coco', 'folder', 'list', 'custom', 'grid']
    """
    return DATA_KINDS.names()


def own_kind(
    name: str, keys: Sequence[str], needed: Sequence[str] = (), tells: bool = False
) -> Callable[[FunctionT], FunctionT]:
    """Registers a kind of this package's own, by the function that finds its images."""

    def register(function: FunctionT) -> FunctionT:
        DATA_KINDS.register(name, DataKind(function, None, tuple(keys), tuple(needed), tells))
        return function

    return register
