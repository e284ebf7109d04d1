"""The numbers of a run, a number for each picture."""

import numpy as np
import pytest

from captum_extract_aggregate.evaluation import DataPlan, MeasurePlan, MethodPlan, Plan, run
from captum_extract_aggregate.evaluation.choice.per_picture import values_per_picture


def test_classes_are_averaged_stages_the_last_and_similarities_magnitudes(tmp_path):
    measures = (
        MeasurePlan("relevance_mass_accuracy"),
        MeasurePlan("class_sensitivity"),
        MeasurePlan("parameter_randomization", arguments={"layers": ["layer4", "fc"]}),
    )
    plan = Plan((MethodPlan("linear-approximation"),), measures, DataPlan(n=3), layers=("layer3",))
    results = run(plan, tmp_path, show_progress=False)
    found = {measure: own["linear-approximation", "layer3"] for measure, own in values_per_picture(results).items()}
    shares = results.rows("relevance_mass_accuracy", "accuracy")
    first = [row.value for row in shares if row.image == 0]
    assert found["relevance_mass_accuracy"][0] == pytest.approx(np.mean(first))
    assert found["class_sensitivity"].tolist() == [abs(row.value) for row in results.rows("class_sensitivity")]
    last = max(detail for measure, detail in results.measures() if measure == "parameter_randomization")
    rows = results.rows("parameter_randomization", last)
    assert found["parameter_randomization"].tolist() == [abs(row.value) for row in rows]
