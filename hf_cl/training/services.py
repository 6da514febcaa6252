"""What hooks may use of the trainer: the members of `hf_cl.contracts.Trainer`.

Shapes: B batch, C classes seen so far, D feature width, E embedding width, S image side in pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor

from hf_cl.checkpoints.tensors import fingerprint
from hf_cl.contracts import FeatureSet, ImageDataset, LossTerm, Outputs, Session
from hf_cl.heads.fitted import learned
from hf_cl.memory.class_statistics import ClassStatistics
from hf_cl.training.run import Run


class Services(Run):
    """The run as hooks see it. What is in `Trainer` is promised to them; everything else can change."""

    @property
    def losses(self) -> Mapping[str, LossTerm]:
        """The loss terms of the session's phases by name; to read only."""
        return {term.name: term for term in self.terms}

    @property
    def images_seen(self) -> int:
        """Images in this session's steps so far, over all processes: each once per step, in however many views and passes."""
        return self.position.session_images

    @property
    def exposed(self) -> int:
        """Classes that have come: all of the session, and inside an ordered one those of its images so far."""
        come, seen = self.session.exposed, self.images_seen
        if come is None:
            return len(self.session.class_names)
        return come[seen - 1] if seen else self.session.first_new_class

    @property
    def seed(self) -> int:
        """The run's seed, which is the same on every process."""
        return self.settings.seed

    def generator_for(self, *key: int | str) -> torch.Generator:
        """A generator on the CPU whose draws are a function of the run's seed and `key` alone, such as ("fisher", session.id).

        For what must not depend on what was drawn before it; the same on every process and after a resume.
        """
        digest = hashlib.sha256(repr((self.seed, *key)).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def features_of(self, dataset: ImageDataset, *, augment: bool = False, role: str | None = None) -> FeatureSet:
        """Features of a whole data set: eval mode, no gradient, gathered over the processes, on the device.

        With `augment` the images are drawn as the current epoch draws them, or as the first epoch of a phase that refreshes once did.
        `role` is another state of the backbone, as in `Context.frozen`. Computed once as long as nothing trains in between.

        Raises ValueError for a role without a state.
        """
        return self.features.of(dataset, augment=augment, role=role)

    def batches_of(self, dataset: ImageDataset, *, augment: bool = False) -> Iterator[Mapping[str, Tensor]]:
        """This process's share of the images of a data set, in order: `pixel_values` [B, 3, S, S], `labels` and `index` [B], and `domain`
        [B] where the data know it, on the device.

        Batches have at most `eval_batch_size` images. Where `features_of` will not do, as for gradients of a whole session.
        """
        return self.images.batches(dataset, epoch=self.features.epoch if augment else None)

    def outputs_of(self, pixel_values: Tensor, *, role: str | None = None, autocast: bool = True) -> Outputs:
        """One forward of `pixel_values` [B, 3, S, S]: features [B, D], logits [B, C], embedding [B, E], in the run's precision.

        Without `autocast` in that of the weights: for what mixed precision would drown, such as second derivatives.

        Through the bare model (no DDP around it: its gradients are this process's own) in its present mode, with gradient unless
        `torch.no_grad()` surrounds the call. With a `role`, another state of the same backbone, as in `Context.frozen`: eval mode, no
        gradient.

        Raises ValueError for a role without a state.
        """
        if role is not None:
            return self.frozen.run(role, pixel_values)
        with self.accelerator.autocast() if autocast else nullcontext():
            return self.classifier.outputs(pixel_values)

    def class_statistics(self, session: Session) -> ClassStatistics:
        """The run's one store of class statistics, with those of `session`'s classes added by the present model where it was not counted.

        Beyond counts and means it keeps what heads and parts name in `statistics`. Images of classes that came before are merged, unless
        the head or the kind of statistics takes no more of a class: then those of the session's own classes count alone.
        """
        if session.id not in self.statistics.sessions:
            data = self.features_of(session.train)
            own = learned(self.head, session, data.labels, final=self.statistics.final)
            with torch.no_grad():
                embedding = self.head.embed(data.features[own])
            weights = fingerprint(self.named_parameters)
            self.statistics.count_session(session.id, embedding, data.labels[own], data.index[own], taken_with=weights)
        return self.statistics

    def validation_of(self, session: Session) -> ImageDataset | None:
        """Images of the session that were held out of training; None where nothing is held out."""
        return session.validation
