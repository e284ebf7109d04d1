"""Images that are read while those before them are explained."""

import threading
from dataclasses import replace

import pytest
import torch

from captum_extract_aggregate.evaluation import runner
from captum_extract_aggregate.evaluation.images import Images, Sample, Source, UnreadableError
from captum_extract_aggregate.evaluation.read_ahead import Ahead, reading_ahead
from tests.evaluation.continuing import SMALL, of_list
from tests.evaluation.plans import dump, evaluated

CPU = torch.device("cpu")


def images_that_tell(may_be_read_ahead):
    """Images, and who has read each of them."""
    read = {}

    def reading(i):
        read[i] = threading.current_thread().name
        if i == 2:
            raise UnreadableError("image 2")
        return Sample(i, str(i), torch.full((1, 2, 2), float(i)))

    return Images(9, reading, str, lambda i: Source(), False, (), ((0.0,), (1.0,)), may_be_read_ahead), read


def test_what_is_expected_is_read_elsewhere_and_nothing_else():
    images, read = images_that_tell(True)
    with reading_ahead(images, CPU, 1) as ahead:
        ahead.expect(range(4))
        assert [ahead.images.read(i).x.mean() for i in (0, 1, 3)] == [0, 1, 3]
        with pytest.raises(UnreadableError, match="image 2"):
            ahead.images.read(2)
        assert set(read) == {0, 1, 2, 3}
        assert all(name.startswith("reader") for name in read.values())
        assert ahead.images.read(7).image == 7
        assert read[7] == threading.current_thread().name
        assert ahead.images.read(0).image == 0  # a second time, as nothing is kept
        assert read[0] == threading.current_thread().name


def test_a_data_set_of_ones_own_is_read_when_its_turn_comes():
    images, read = images_that_tell(False)
    with reading_ahead(images, CPU, 1) as ahead:
        ahead.expect(range(4))
        assert not read
        ahead.images.read(1)
    assert read == {1: threading.current_thread().name}


def test_no_reader_outlives_an_interrupt():
    def interrupted():
        with reading_ahead(images_that_tell(True)[0], CPU, 1) as ahead:
            ahead.expect(range(9))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not any(thread.name.startswith("reader") for thread in threading.enumerate())


@pytest.mark.parametrize("processes", [1, 10**6])
def test_on_a_gpu_there_is_at_least_one_reader(processes):
    with reading_ahead(images_that_tell(True)[0], torch.device("cuda"), processes) as ahead:
        assert 1 <= ahead._pool._max_workers <= 8


def test_an_evaluation_finds_the_same(tmp_path, monkeypatch):
    """With images of two sizes and one that cannot be read."""
    plan = SMALL | of_list(tmp_path) | {"run": {"batch_size": 2, "on_error": "skip"}}
    (tmp_path / "c.png").write_bytes(b"damaged")
    names = set()

    def noting(images, *args):
        original = images.read
        images = replace(images, read=lambda i: names.add(threading.current_thread().name) or original(i))
        return reading_ahead(images, *args)

    monkeypatch.setattr(runner, "reading_ahead", noting)
    ahead = dump(evaluated(tmp_path / "ahead", **plan))
    assert names
    assert all(name.startswith("reader") for name in names)

    def in_turn(images, *args):
        return reading_ahead(replace(images, may_be_read_ahead=False), *args)

    monkeypatch.setattr(runner, "reading_ahead", in_turn)
    assert dump(evaluated(tmp_path / "in turn", **plan)) == ahead


def test_nothing_is_expected_where_nobody_reads():
    images, read = images_that_tell(True)
    Ahead(images, None).expect(range(3))
    assert not read
