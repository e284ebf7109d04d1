"""Images that are read while those before them are explained."""

import threading
import warnings
from dataclasses import replace

import pytest
import torch
from PIL import Image

from captum_extract_aggregate.data.image_files import load_image
from captum_extract_aggregate.evaluation import prepared as prepared_module
from captum_extract_aggregate.evaluation import runner
from captum_extract_aggregate.evaluation.images import Images, Sample, Source, UnreadableError
from captum_extract_aggregate.evaluation.read_ahead import look_at, reading_ahead
from tests.evaluation.continuing import SMALL, TENSORS, of_list
from tests.evaluation.plans import HERE, dump, evaluated

CPU = torch.device("cpu")


def images_that_tell():
    """Images, and who has read each of them."""
    read = {}

    def reading(i):
        read[i] = threading.current_thread().name
        if i == 2:
            raise UnreadableError("image 2")
        return Sample(i, str(i), torch.full((1, 2, 2), float(i)))

    return Images(9, reading, str, lambda i: Source(str(i)), False, (), ((0.0,), (1.0,))), read


def test_what_is_expected_is_read_elsewhere_and_nothing_else():
    images, read = images_that_tell()
    with reading_ahead(images, CPU, 1) as ahead:
        ahead.expect(range(4))
        ahead.expect(range(2, 5))
        assert [ahead.look(i).sample.x.mean() for i in (0, 1, 3)] == [0, 1, 3]
        assert ahead.look(2) == (None, "image 2", look_at(images, 2).content)
        assert ahead.look(4).content == look_at(images, 4).content
    assert set(read) == {0, 1, 2, 3, 4}
    assert all(read[i].startswith("reader") for i in (0, 1, 3))


def test_no_reader_outlives_an_interrupt():
    def interrupted():
        with reading_ahead(images_that_tell()[0], CPU, 1) as ahead:
            ahead.expect(range(9))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not any(thread.name.startswith("reader") for thread in threading.enumerate())


@pytest.mark.parametrize("processes", [1, 10**6])
def test_on_a_gpu_there_is_at_least_one_reader(processes):
    with reading_ahead(images_that_tell()[0], torch.device("cuda"), processes) as ahead:
        assert 1 <= ahead._pool._max_workers <= 8


def readers_of(folder, monkeypatch, **plan):
    """What an evaluation finds, and the threads that have read its images."""
    names = set()

    def noting(images, i):
        names.add(threading.current_thread().name)
        return look_at(images, i)

    monkeypatch.setattr("captum_extract_aggregate.evaluation.read_ahead.look_at", noting)
    monkeypatch.setattr(prepared_module, "look_at", noting)
    return dump(evaluated(folder, **plan)), names


def test_an_evaluation_finds_the_same(tmp_path, monkeypatch):
    """With images of two sizes and one that cannot be read."""
    plan = SMALL | of_list(tmp_path) | {"run": {"batch_size": 2, "on_error": "skip"}}
    (tmp_path / "c.png").write_bytes(b"damaged")
    ahead, readers = readers_of(tmp_path / "ahead", monkeypatch, **plan)
    assert readers
    assert all(name.startswith("reader") for name in readers)
    monkeypatch.setattr(prepared_module.Prepared, "may_read_ahead", False)
    in_turn, readers = readers_of(tmp_path / "in turn", monkeypatch, **plan)
    assert readers == {threading.current_thread().name}
    assert in_turn == ahead


@pytest.mark.parametrize("own", [{"data": TENSORS}, {"measures": [{"measure": f"{HERE}:total"}]}])
def test_beside_code_of_ones_own_images_are_read_when_their_turn_comes(own, tmp_path, monkeypatch):
    """It may draw, go to another folder, or change what a process has but one of."""
    _, readers = readers_of(tmp_path / "found", monkeypatch, **SMALL | of_list(tmp_path) | own)
    assert readers == {threading.current_thread().name}


def test_a_picture_is_recorded_as_it_was_read(tmp_path, monkeypatch):
    """One that is replaced before its turn comes is another: going on with such results is refused."""
    plan = SMALL | of_list(tmp_path) | {"run": {"batch_size": 2}}
    original = runner.evaluate_batch

    def replacing(prepared, images, device):
        if images.start == 0:
            for future in prepared.ahead._coming.values():
                future.result()
            Image.new("RGB", (24, 24), "red").save(tmp_path / "d.png")
        return original(prepared, images, device)

    monkeypatch.setattr(runner, "evaluate_batch", replacing)
    evaluated(tmp_path / "results", **plan)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"d\.png"):
        evaluated(tmp_path / "results", **plan)


def test_filters_of_warnings_are_left_to_one_thread(tmp_path, monkeypatch):
    """They are the whole process's, and come back in the wrong order where several threads keep them."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("RGB", (12, 12)).save(tmp_path / "large.png")
    keep, keepers = warnings.catch_warnings.__enter__, []

    def noting(self):
        keepers.append(threading.current_thread().name)
        return keep(self)

    monkeypatch.setattr(warnings.catch_warnings, "__enter__", noting)
    images = replace(images_that_tell()[0], read=lambda i: sample(tmp_path, i))
    with warnings.catch_warnings(record=True) as said, reading_ahead(images, CPU, 1) as ahead:
        ahead.expect(range(3))
        assert all(ahead.look(i).sample is not None for i in range(3))
    assert not said
    assert set(keepers) == {threading.current_thread().name}


def sample(folder, i):
    return Sample(i, str(i), torch.tensor(load_image(folder / "large.png").size).float())
