"""What loss terms read, without a model or a loop."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from hf_cl.contracts import Context, FeatureSet, Outputs, Session


class Labels:
    """A data set of which only the labels are known."""

    def __init__(self, labels):
        self.labels = list(labels)
        self.indices = list(range(len(self.labels)))

    def __len__(self):
        return len(self.labels)


def session_of(seen: int, new: int, labels=()) -> Session:
    names = tuple(f"class {i}" for i in range(seen))
    return Session(int(seen > new), names, names[seen - new :], train=Labels(labels), tests=())


def context_of(logits, labels, session, *, features=None, frozen=None) -> Context:
    features = logits if features is None else features
    view = Outputs(features=features, logits=logits, embedding=features)
    return Context({"labels": labels, "index": torch.arange(len(labels))}, (view,), session, epoch=0, step=0, frozen=frozen or no_state)


def no_state(role, view=-1):
    raise AssertionError(f"this term needs no frozen state, it asked for {role}")


class FakeTrainer:
    """The members of the trainer that hooks may use; `features_of` gives the stored features."""

    def __init__(self, head, features, session, *, seed=0):
        self.head, self.features, self.session = head, features, session
        self.generator = torch.Generator().manual_seed(seed)
        self.accelerator = SimpleNamespace(device=torch.device("cpu"))
        self.asked = []
        self.phase = SimpleNamespace(batch_size=None)

    def features_of(self, dataset, *, augment=False):
        self.asked.append((dataset, augment))
        return FeatureSet(self.features, torch.tensor(dataset.labels), torch.tensor(dataset.indices))
