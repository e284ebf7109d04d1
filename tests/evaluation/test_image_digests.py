"""Digests that tell whether an image has changed since its results were computed."""

import os

import pytest
import torch

from captum_extract_aggregate.evaluation.image_digests import content_of, stamp_of
from captum_extract_aggregate.evaluation.images import Images, Sample, Source


def images(source):
    return Images(1, lambda i: None, lambda i: "", lambda i: source, False, (), ((0.0,), (1.0,)))


def test_of_files_their_bytes_and_what_is_known_from_elsewhere_count(tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(b"first")
    source = Source("class 1", (path,))
    before, _ = content_of(images(source), 0, None)
    assert content_of(images(source), 0, None)[0] == before
    assert content_of(images(Source("class 2", (path,))), 0, None)[0] != before
    path.write_bytes(b"other")
    assert content_of(images(source), 0, None)[0] != before
    path.unlink()
    assert content_of(images(source), 0, None)[0] != before


@pytest.mark.skipif(os.name == "nt", reason="the time of a file's last change is not known there")
def test_a_stamp_tells_that_a_file_may_have_changed(tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(b"first")
    before = stamp_of(Source("", (path,)))
    assert before == stamp_of(Source("", (path,)))
    path.write_bytes(b"longer than before")
    assert stamp_of(Source("", (path,))) != before
    path.unlink()
    assert stamp_of(Source("", (path,))) == ""
    assert stamp_of(Source("about", ())) == ""


def test_of_items_without_files_what_was_read_counts():
    unknown = images(Source(files=None))
    x = torch.zeros(3, 4, 4)
    before = content_of(unknown, 0, Sample(0, "", x, 1))
    assert before[1] == ""
    assert content_of(unknown, 0, Sample(0, "", x.clone(), 1)) == before
    for other in (Sample(0, "", x, 2), Sample(0, "", x + 1, 1), Sample(0, "", x.double(), 1), None):
        assert content_of(unknown, 0, other) != before
