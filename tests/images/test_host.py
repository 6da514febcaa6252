"""Processes of one machine that share pixels, here as threads: what they share are files."""

from __future__ import annotations

import gc
import queue
import threading

import numpy as np
import pytest
from PIL import Image

from hf_cl.images import Host


def together(folder, size, work):
    """`work(host)` of each process, at the same time; the results by rank. Where one fails the others, who wait for it, are left behind."""
    folder.mkdir()
    found = queue.Queue()

    def run(rank):
        try:
            found.put((rank, work(Host(rank, size, folder)), None))
        except BaseException as error:
            found.put((rank, None, error))

    for rank in range(size):
        threading.Thread(target=run, args=(rank,), daemon=True).start()
    results = {}
    for _ in range(size):
        rank, result, error = found.get(timeout=120)
        if error is not None:
            raise error
        results[rank] = result
    return [results[rank] for rank in range(size)]


def test_nobody_leaves_before_all_have_come(tmp_path):
    come = []

    def work(host):
        for turn in range(20):
            come.append(turn)
            host.wait()
            assert come.count(turn) == 3
            host.wait()

    together(tmp_path / "host", 3, work)
    gc.collect()
    assert not (tmp_path / "host").exists(), "the last one removes it"


def test_one_looks_and_tells_the_others(tmp_path):
    calls = []
    assert together(tmp_path / "host", 3, lambda host: host.once(lambda: calls.append(host.rank) or {"found": [1]})) == [{"found": [1]}] * 3
    assert calls == [0]


def test_what_the_one_cannot_do_the_others_hear(tmp_path):
    def work(host):
        with pytest.raises((ValueError, RuntimeError), match="no such folder"):
            host.once(fail)

    def fail():
        raise ValueError("no such folder")

    together(tmp_path / "host", 2, work)


@pytest.mark.parametrize("size", [2, 4])
def test_each_picture_is_decoded_by_one_process_and_seen_by_all(pictures, store_of, tmp_path, size):
    whole = pictures([(40, 50 + i % 7) for i in range(60)])
    alone = store_of().training(whole).images(range(60))
    whole.reads = [0] * 60

    def work(host):
        store = store_of(host=host, budget=20 << 20)
        train = store.training(whole)
        host.wait()
        assert train.num_kept == 60
        assert all(np.array_equal(mine, other) for mine, other in zip(train.images(range(60)), alone, strict=True))
        share = range(60)[host.rank :: size]
        store.evaluation(whole, share, test=False).images(share)
        reads = sum(whole.reads)
        host.wait()
        next_one = store.training(coming)
        assert (train.num_kept, next_one.num_kept) == (0, 9)
        return reads, store.num_bytes

    coming = pictures([(30, 30)] * 9, seed=1)
    found = together(tmp_path / "host", size, work)
    assert {reads for reads, _ in found} == {60}
    assert coming.reads == [1] * 9
    assert all(0 < size_now <= 9 * 30 * 30 * 3 * 2 for _, size_now in found)


def test_what_one_process_decoded_to_look_at_it_serves_all(pictures, store_of, tmp_path):
    whole = pictures([(40, 50)] * 20)

    def work(host):
        store = store_of(host=host, budget=20 << 20)
        store.know(whole)
        if host.rank == 0:
            for row, array in zip(whole.indices, whole.arrays, strict=True):
                store.put(whole, row, Image.fromarray(array))
            store.publish()
        host.wait()
        return store.evaluation(whole, range(20), test=True).num_kept, store.training(whole).num_kept

    assert together(tmp_path / "host", 2, work) == [(20, 20)] * 2
    assert whole.reads == [0] * 20


def test_training_pixels_on_disk_are_shared_too(pictures, store_of, tmp_path):
    whole, cache = pictures([(40, 50)] * 20), tmp_path / "cache"

    def work(host):
        store = store_of(host=host, budget=8000, cache=cache)
        kept = store.training(whole).num_kept
        host.wait()
        return kept, store

    assert [kept for kept, _ in together(tmp_path / "host", 2, work)] == [20, 20]
    assert whole.reads == [1] * 20


def test_a_source_that_one_process_alone_knows_is_not_mixed_up(pictures, store_of, tmp_path):
    shared = pictures([(20, 20)] * 6)
    own = [pictures([(24, 24)] * 4, seed=10 + rank) for rank in range(2)]

    def work(host):
        store = store_of("none", host=host, budget=20 << 20)
        mine = store.evaluation(own[host.rank], range(4), test=True)
        store.training(shared)
        host.wait()
        return all(np.array_equal(image, array) for image, array in zip(mine.images(range(4)), own[host.rank].arrays, strict=True))

    assert together(tmp_path / "host", 2, work) == [True, True]
