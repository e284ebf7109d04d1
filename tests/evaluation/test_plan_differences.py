"""By which keys a plan cannot go on with another's results."""

import pytest

from captum_extract_aggregate.evaluation import plan_from, run
from captum_extract_aggregate.evaluation.store import ResultsError
from tests.evaluation.continuing import SMALL, TENSORS
from tests.evaluation.plans import content, dump


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"run": {"seed": 1}}, "run.seed is 1, was 0"),
        ({"data": TENSORS | {"start": 1}}, "data.start is 1, was 0"),
        ({"data": TENSORS | {"size": 9}}, "data.size is 9, was 0"),
        ({"measures": [{"measure": "class_sensitivity", "arguments": {"similarity": "ssim"}}]}, "arguments.similarity"),
        (
            {"measures": [{"measure": "completeness_gap", "label": "class_sensitivity"}]},
            "measure is 'completeness_gap'",
        ),
        ({"methods": [{"method": "gradcam", "label": "normgrad"}]}, "method is 'gradcam', was 'normgrad'"),
        ({"methods": [{"method": "normgrad", "channels": "max_abs"}]}, "method 'normgrad'.channels is 'max_abs'"),
        ({"methods": [{"method": "normgrad", "meta_saliency": {}}]}, "method 'normgrad'.meta_saliency"),
    ],
)
def test_a_plan_that_differs_is_refused_by_its_key(changes, key, tmp_path):
    small = {key: value for key, value in SMALL.items() if key != "run"}
    plan = plan_from(content(**small) | {"run": {"batch_size": 2}})
    run(plan, tmp_path, show_progress=False)
    before = dump(tmp_path)
    changed = content(**SMALL) | changes
    changed["run"] = {"batch_size": 2} | changed["run"]
    with pytest.raises(ResultsError, match="results of another plan") as caught:
        run(plan_from(changed), tmp_path, show_progress=False)
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)
    assert dump(tmp_path) == before
