"""A measure tried out before any work starts."""

import pytest

from tests.evaluation.plans import HERE
from tests.evaluation.wrong_plans import check_refused, measures

WRONG = {
    "an unknown similarity": (measures(similarity="spearmen"), "similarity is 'spearmen', .* 'spearman'"),
    "an argument that a measure has not": (measures(similarty="ssim"), "'similarty', .* did you mean 'similarity'"),
    "an argument for a measure that takes none": (measures("completeness_gap", eps=1), "takes none"),
    "an argument that one's own measure has not": (measures(f"{HERE}:total", fator=2), "fator"),
    "an unknown order": (measures("parameter_randomization", order="cascade"), "order is 'cascade'.*'cascading'"),
    "an unknown init": (measures("parameter_randomization", init="nrmal"), "init is 'nrmal'.*'normal'"),
    "no seeds": (measures("parameter_randomization", n_seeds=0), "n_seeds is 0"),
    "an unknown similarity of the randomisation": (measures("parameter_randomization", similarity="x"), "'x'"),
    "a step of 0": (measures("pixel_removal", step=0), "step is 0"),
    "a step that is text": (measures("pixel_removal", step="1"), "step is '1'"),
    "a tolerance of 0": (measures("pointing_game", tolerance=0), "tolerance is 0"),
    "a tolerance that is text": (measures("pointing_game", tolerance="15"), "tolerance is '15'"),
    "no shuffles": (measures("removal_contrast", n_shuffles=0, step=4096), "n_shuffles is 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_arguments_that_measures_refuse(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_refused(*WRONG[case], tmp_path)
