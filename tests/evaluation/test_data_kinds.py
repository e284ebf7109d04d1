"""Kinds of data that users register."""

import pytest
import torch

from captum_extract_aggregate.evaluation import plan_from, run
from captum_extract_aggregate.registry import list_datasets, register_dataset, unregister_dataset


@pytest.fixture
def kind():
    @register_dataset("noise")
    def noise(count=3):
        generator = torch.Generator().manual_seed(0)
        return [(torch.randn(3, 96, 96, generator=generator), 3) for _ in range(count)]

    yield "noise"
    if "noise" in list_datasets():
        unregister_dataset("noise")


def plan(**data):
    return plan_from(
        {
            "methods": [{"method": "normgrad", "layers": ["layer3"]}],
            "measures": [{"measure": "class_sensitivity"}],
            "data": {"kind": "noise", **data},
        }
    )


def test_a_registered_kind_is_one_of_plans(kind, tmp_path):
    results = run(plan(arguments={"count": 2}), tmp_path / "results", show_progress=False)
    assert len(results.images()) == 2


def test_mistakes(kind, tmp_path):
    with pytest.raises(ValueError, match=r"data.root is 'a', but does not apply to data of the kind 'noise'"):
        run(plan(root="a"), tmp_path / "results", show_progress=False)
    with pytest.raises(ValueError, match=r"data.kind is 'noise', whose function failed: TypeError"):
        run(plan(arguments={"cuont": 2}), tmp_path / "results", show_progress=False)
    with pytest.raises(ValueError, match=r"'noise', which is taken; .*unregister_dataset\('noise'\)"):
        register_dataset("noise")
    register_dataset("noise", overwrite=True)(lambda: 3)
    with pytest.raises(ValueError, match="'noise', which returned a int; expected a data set with a length"):
        run(plan(), tmp_path / "results", show_progress=False)
    unregister_dataset("noise")
    with pytest.raises(ValueError, match=r"data.kind is 'noise', which is unknown"):
        plan()
