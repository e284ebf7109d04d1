"""The images of a plan, as the model takes them, with what is known of their objects."""

from __future__ import annotations

import contextlib

import torch.nn.functional as F
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate.data.models_by_name import NamedModel
from captum_extract_aggregate.evaluation.data_kinds import DATA_KINDS, SOME, own_kind
from captum_extract_aggregate.evaluation.data_openers import Opened, Preprocess, registered
from captum_extract_aggregate.evaluation.grid_data import check_grid, grids_of
from captum_extract_aggregate.evaluation.guard import undisturbed
from captum_extract_aggregate.evaluation.images import Images, Normalisation, Sample, UnreadableError
from captum_extract_aggregate.evaluation.plan import DataPlan, given


def open_images(plan: DataPlan, subject: NamedModel) -> Images:
    """Finds the data set; raises ValueError with one clear line if it is not there."""
    check_applies(plan)
    kind = DATA_KINDS[plan.kind]
    try:
        with undisturbed():
            preprocess = Preprocess(plan, subject)
            opened = kind.open(plan, preprocess) if kind.open is not None else registered(plan, preprocess)
    except ValueError as error:
        if kind.tells or kind.make is not None:
            raise
        raise _not_opened(plan, error) from None
    except Exception as error:  # whatever the data set's own code raises
        raise _not_opened(plan, error) from None
    indices = range(plan.start, opened.count, plan.every)
    indices = indices[: plan.n] if plan.n else indices
    if not indices:
        raise InvalidValueError(
            f"data.start is {plan.start}, but there are {opened.count} images; expected at least one to be left"
        )
    normalisation: Normalisation = plan.mean or subject.mean, plan.std or subject.std

    def read_chosen(i: int) -> Sample:
        try:
            with undisturbed() if opened.is_users else contextlib.nullcontext():
                return opened.read(indices[i], i)
        except Exception as error:  # whatever a damaged file, or the data set's own code, raises
            what = error if isinstance(error, (OSError, ValueError)) else repr(error)
            raise UnreadableError(f"image {i} cannot be read: {what}") from error

    return Images(
        len(indices),
        read_chosen,
        lambda i: storable(opened.name(indices[i])),
        lambda i: opened.source(indices[i]),
        opened.has_objects,
        tuple(opened.classes),
        opened.normalisation or normalisation,
        opened.is_users,
    )


@own_kind("grid", ("arguments", "seed", *SOME), tells=True)
def _grid(plan: DataPlan, preprocess: Preprocess) -> Opened:
    chosen = check_grid(plan.arguments)
    subject = preprocess.subject
    return grids_of(plan, chosen, open_images(chosen.of, subject), subject.model)


DATA_KINDS.seal()


def check_applies(data: DataPlan) -> None:
    """Raises our error for a key that says nothing of data of this kind: it would be ignored."""
    for name, value in given(data).items():
        if name not in ("kind", *DATA_KINDS[data.kind].keys):
            raise InvalidValueError(
                f"data.{name} is {value!r}, but does not apply to data of the kind {data.kind!r}; "
                f"expected it left out (there are {', '.join(DATA_KINDS[data.kind].keys)})"
            )


def storable(text: str) -> str:
    """Returns a name as UTF-8 can hold it: files may have names that are no text."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _not_opened(plan: DataPlan, error: Exception) -> ValueError:
    where = f"root {plan.root!r}" + (f" and file {plan.file!r}" if plan.file else "")
    return InvalidValueError(f"data of the kind {plan.kind!r} cannot be opened with {where}: {error!r}")


def to_image_size(map_: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Returns a map `N x 1 x h x w` at the image's size."""
    if tuple(map_.shape[2:]) == size:
        return map_
    if interpolation == "nearest":
        return F.interpolate(map_, size, mode="nearest")
    return F.interpolate(map_, size, mode="bilinear", align_corners=False)
