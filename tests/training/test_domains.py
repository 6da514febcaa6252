"""The domain of an image comes into the batch where the data know it, an exemplar's too."""

from __future__ import annotations

from dataclasses import replace

import pytest
from memory_case import build
from stream import Images, Stream

from hf_cl.contracts import Part


class InDomain(Images):
    """Images of which each third is of another domain than the rest."""

    @property
    def domains(self):
        return [100 + index % 3 for index in self.indices]


class Domains(Stream):
    def __iter__(self):
        for session in super().__iter__():
            yield replace(session, train=InDomain(list(session.train.labels), first_index=1000 * session.id))


class Watch(Part):
    def __init__(self):
        self.seen = []

    def after_step(self, trainer):
        self.seen += trainer.contexts


@pytest.mark.parametrize("replay", [0, 3], ids=["shuffled in", "drawn beside"])
def test_domains_of_images_and_exemplars(tmp_path, replay):
    watch = Watch()
    memory = {"type": "exemplars", "per_class": 2, "choose": "random", "replay": replay}
    build(tmp_path, memory=memory, part=watch, stream=Domains(2)).fit()
    replayed = 0
    for ctx in watch.seen:
        index, domain = ctx.batch["index"].tolist(), ctx.batch["domain"].tolist()
        kept = ctx.batch["replayed"].tolist() if "replayed" in ctx.batch else [False] * len(index)
        replayed += sum(kept)
        for i, d, foreign in zip(index, domain, kept, strict=True):
            assert d in (100, 101, 102) if foreign else d == 100 + i % 3
    assert replayed


def test_data_that_know_none_bring_none(tmp_path):
    watch = Watch()
    build(tmp_path, part=watch, sessions=1).fit()
    assert watch.seen and all("domain" not in ctx.batch for ctx in watch.seen)
