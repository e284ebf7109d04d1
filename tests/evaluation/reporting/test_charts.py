"""The charts of a report: which there are, and what is drawn in them."""

from captum_extract_aggregate.evaluation.plan import CombinationPlan, MeasurePlan, MethodPlan, Plan
from captum_extract_aggregate.evaluation.reporting.charts import combined
from captum_extract_aggregate.evaluation.store import BatchRows, MapRow, Results, Writer


def test_combinations_of_layers_belong_to_no_curve(tmp_path):
    method = MethodPlan("normgrad", label="A", combine=(CombinationPlan(label="product"),))
    plan = Plan((method, MethodPlan("gradcam", label="B")), (MeasurePlan("class_sensitivity"),))
    maps = [MapRow("A", layer, i, 6, 6, 24, 24) for i, layer in enumerate(("l1", "l2", "product"))]
    maps.append(MapRow("B", "l3", 3, 6, 6, 24, 24))
    with Writer(tmp_path, 0, plan, 0) as writer:
        writer.add(0, BatchRows([], [], maps, []))
    assert combined(Results(tmp_path)) == {("A", "product")}
