"""A quick plan whose results the tests of the store disturb."""

from tests.evaluation.plans import HERE

NET = {"model": {"name": f"{HERE}:tiny_net"}, "layers": ["conv1", "conv2"]}


QUICK = NET | {
    "data": {"kind": "custom", "dataset": f"{HERE}:tensors_with_pairs", "arguments": {"count": 9}},
    "measures": [{"measure": "pointing_game"}, {"measure": "class_sensitivity"}],
    "run": {"batch_size": 2},
}
