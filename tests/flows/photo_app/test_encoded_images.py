"""The memory of encoded photographs: each is encoded once, the oldest go first, threads share without mixing."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image

from flows.photo_app.encoded_images import EncodedImages, encoded_bytes
from tests.tiny_segmenter import picture, tiny_segmenter

PHOTOGRAPHS = [Image.fromarray(picture(seed=seed)) for seed in range(4)]


class CountingSegmenter:
    """Encodes as the real one and remembers what; fails the test if two threads encode at once."""

    def __init__(self, segmenter):
        self.segmenter = segmenter
        self.encoded = []
        self._busy = threading.Lock()

    def encode(self, image):
        assert self._busy.acquire(blocking=False)
        self.encoded.append(image)
        try:
            return self.segmenter.encode(image)
        finally:
            self._busy.release()


@pytest.fixture(scope="module")
def segmenter():
    return tiny_segmenter()


@pytest.fixture
def counting(segmenter):
    return CountingSegmenter(segmenter)


def test_a_photograph_is_encoded_once(counting):
    images = EncodedImages(counting, limit_bytes=10**9)
    first, again = images.encoded(PHOTOGRAPHS[0]), images.encoded(PHOTOGRAPHS[0].copy())
    assert (first.was_kept, again.was_kept) == (False, True)
    assert again.encoded is first.encoded
    assert len(counting.encoded) == 1
    expected = counting.segmenter.encode(PHOTOGRAPHS[0])
    assert torch.equal(first.encoded.mask_logits, expected.mask_logits)


def test_equal_bytes_of_another_shape_are_another_photograph(counting):
    images = EncodedImages(counting, limit_bytes=10**9)
    images.encoded(Image.new("RGB", (40, 60), "red"))
    assert not images.encoded(Image.new("RGB", (60, 40), "red")).was_kept


def test_the_longest_unused_goes_when_the_memory_is_full(counting):
    one = encoded_bytes(counting.segmenter.encode(PHOTOGRAPHS[0]))
    images = EncodedImages(counting, limit_bytes=int(2.5 * one))
    for index in (0, 1, 0, 2):
        images.encoded(PHOTOGRAPHS[index])
    assert len(images) == 2
    assert images.size_bytes() <= 2.5 * one
    assert [images.encoded(PHOTOGRAPHS[index]).was_kept for index in (0, 2, 1)] == [True, True, False]


def test_the_latest_is_kept_even_if_it_alone_is_too_large(counting):
    images = EncodedImages(counting, limit_bytes=1)
    images.encoded(PHOTOGRAPHS[0])
    images.encoded(PHOTOGRAPHS[1])
    assert len(images) == 1
    assert images.encoded(PHOTOGRAPHS[1]).was_kept


def test_an_encoding_counts_with_all_that_it_holds(counting):
    encoded = counting.segmenter.encode(PHOTOGRAPHS[0])
    own = [value for value in (*vars(encoded).values(), *encoded.regions) if isinstance(value, torch.Tensor)]
    pixels = PHOTOGRAPHS[0].width * PHOTOGRAPHS[0].height + encoded.net_size[0] * encoded.net_size[1]
    assert encoded_bytes(encoded) == sum(value.numel() * value.element_size() for value in own) + 3 * pixels


def test_threads_get_their_own_photograph_and_encode_each_once(counting):
    images = EncodedImages(counting, limit_bytes=10**9)
    asked = [index for _ in range(6) for index in range(len(PHOTOGRAPHS))]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda index: images.encoded(PHOTOGRAPHS[index]).encoded, asked))
    assert len(counting.encoded) == len(PHOTOGRAPHS)
    for index, encoded in zip(asked, found, strict=True):
        assert encoded.image.tobytes() == PHOTOGRAPHS[index].tobytes()


def test_nobody_waits_for_the_nets_who_asks_for_a_kept_photograph(counting, monkeypatch):
    images = EncodedImages(counting, limit_bytes=10**9)
    images.encoded(PHOTOGRAPHS[0])
    busy, free = threading.Event(), threading.Event()
    encode = counting.encode
    monkeypatch.setattr(counting, "encode", lambda image: (free.wait(60), encode(image))[1])
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(images.encoded, PHOTOGRAPHS[1], busy.set)
        assert busy.wait(60)
        assert images.encoded(PHOTOGRAPHS[0]).was_kept
        assert not slow.done()
        free.set()
        assert not slow.result(60).was_kept


def test_a_photograph_that_failed_is_tried_again(counting, monkeypatch):
    images = EncodedImages(counting, limit_bytes=10**9)
    with monkeypatch.context() as patched:
        patched.setattr(counting, "encode", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            images.encoded(PHOTOGRAPHS[0])
    assert not images.encoded(PHOTOGRAPHS[0]).was_kept
