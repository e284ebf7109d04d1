"""Values of the wrong kind, told in one line."""

import datetime

import pytest

from tests.evaluation.plans import content
from tests.evaluation.wrong_plans import check_refused, combine, data, methods, model

WRONG = {
    "text for a number": (data(n="all"), "data.n is 'all'; expected a whole number"),
    "true for a number": (data(n=True), "data.n is True; expected a whole number"),
    "a fraction for a whole number": (content(run={"batch_size": 2.5}), "run.batch_size is 2.5; expected a whole"),
    "a number for text": (model(name=3), "model.name is 3; expected text"),
    "a number for true": (methods(meta_saliency={"ascent": 1}), "ascent is 1; expected true or false"),
    "text for a list": (content(layers="layer3"), "layers is 'layer3'; expected a list"),
    "a list for a table": (content(data=[]), r"data is \[\]; expected a table"),
    "text for a table": (methods(arguments="rule"), "arguments is 'rule'; expected a table"),
    "text for a method": (content(methods=["normgrad"]), r"methods\[0\] is 'normgrad'; expected a table"),
    "true for meta-saliency": (methods(meta_saliency=True), "meta_saliency is True; expected a table"),
    "text among weights": (combine(weights=[1, "2"]), r"weights\[1\] is '2'; expected a number"),
    "a number for weights": (combine(weights=2), "weights is 2; expected text"),
    "an infinite rate": (methods(meta_saliency={"lr": float("inf")}), "lr is inf; expected a finite number"),
    "a negative number of images": (data(n=-1), "data.n is -1; expected at least 0"),
    "every zeroth image": (data(every=0), "data.every is 0; expected at least 1"),
    "a number of any size": (data(n=10**30), "data.n is 10{30}; expected at most"),
    "a huge size": (data(kind="folder", root=".", size=10**6), "data.size is 1000000; expected at most 16384"),
    "a NUL in text": (data(kind="folder", root="a\0b"), "data.root is 'a.*b'; expected text without NUL"),
    "fewer classes than none": (model(name="resnet18", num_classes=-3), "model.num_classes is -3; expected at least 0"),
    "no batch": (content(run={"batch_size": 0}), "run.batch_size is 0; expected at least 1"),
    "no thread": (content(run={"threads": 0}), "run.threads is 0; expected at least 1"),
    "a negative seed": (content(run={"seed": -1}), "run.seed is -1; expected at least 0"),
    "a date": (data(arguments={"since": datetime.date(2020, 1, 1)}), "arguments"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_values(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_refused(*WRONG[case], tmp_path)
