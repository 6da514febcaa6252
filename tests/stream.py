"""A tiny stream of images in memory: sessions without files, for tests of the loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from hf_cl.contracts import Session, Test


class Images:
    """Seeded noise around one colour per class. Fulfils contracts.ImageDataset."""

    def __init__(self, labels, first_index=0, side=32):
        self.labels = np.asarray(labels)
        self.indices = np.arange(first_index, first_index + len(self.labels))
        self.side = side

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, position):
        label, index = int(self.labels[position]), int(self.indices[position])
        colour = np.random.default_rng(1000 + label).integers(0, 256, 3)
        noise = np.random.default_rng(index).normal(0, 40, (self.side, self.side, 3))
        image = Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8))
        return {"image": image, "label": label, "index": index}


class Stream:
    """`sessions` sessions of two classes, `train` and `test` images per class."""

    def __init__(self, sessions=3, train=9, test=4):
        self.names = self.class_names = tuple(f"class {i}" for i in range(2 * sessions))
        self.count, self.train, self.test = sessions, train, test
        self.protocol = {
            "name": "class_incremental",
            "dataset": "noise",
            "num_base_classes": 2,
            "classes_per_session": 2,
            "shots": None,
            "class_order": "natural",
            "class_order_seed": 0,
            "index_list": None,
            "test_split": "test",
            "validation_fraction": 0.0,
        }

    def __iter__(self):
        tests = []
        for t in range(self.count):
            classes = (2 * t, 2 * t + 1)
            train = Images(np.repeat(classes, self.train), first_index=1000 * t)
            tests.append(Images(np.repeat(classes, self.test), first_index=1000 * t + 500))
            seen = self.names[: 2 * t + 2]
            all_tests = tuple(Test(f"session-{j}", data, tuple(range(len(seen)))) for j, data in enumerate(tests))
            yield Session(id=t, class_names=seen, new_class_names=seen[2 * t :], train=train, tests=all_tests)


class AgainStream(Stream):
    """Two sessions of two classes, then more images of the classes 1 and 2, which are tested on `more` images of each; then two classes."""

    def __init__(self, train=9, test=4, more=0):
        super().__init__(3, train, test)
        self.more = more

    def __iter__(self):
        first, second, last = super().__iter__()
        again = Images(np.repeat((1, 2), self.train), first_index=5000)
        own = Test("session-2", Images(np.repeat((1, 2), self.more), first_index=5500), second.tests[0].candidates)
        yield first
        yield second
        yield replace(second, id=2, new_class_names=(), train=again, tests=(*second.tests, own))
        tests = (*last.tests[:2], replace(own, candidates=last.tests[0].candidates), replace(last.tests[2], name="session-3"))
        yield replace(last, id=3, tests=tests)
