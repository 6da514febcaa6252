"""A head: the nearest point instead of the largest product. Points are learned, and end a session as the means of their classes."""

import torch
from torch import nn
from torch.nn import functional as F

from hf_cl.contracts import Head, Part
from hf_cl.heads import HEADS
from hf_cl.heads.rows import append_rows


class DistanceHead(Head, Part):
    """-|features - row|^2 / 2, up to a constant per image."""

    def __init__(self, in_features, num_classes, *, device=None, dtype=None):
        super().__init__()
        self.in_features, self.num_classes = in_features, num_classes
        none = nn.Parameter(torch.empty(0, in_features, device=device, dtype=dtype))
        self.weight = append_rows(none, (num_classes, in_features), in_features)  # [C, D]

    def grow(self, class_names):
        self.weight = append_rows(self.weight, (len(class_names), self.in_features), self.in_features)
        self.num_classes += len(class_names)

    def forward(self, features):  # [B, D] -> [B, C]
        return F.linear(features, self.weight, -self.weight.square().sum(1) / 2)

    def end_session(self, trainer, session):  # a hook of Part; without it, rows of different sessions are not on one scale
        classes = range(session.first_new_class, self.num_classes)
        means = trainer.class_statistics(session).means(classes)  # [c, D]
        self.weight.data[classes.start :] = means.to(self.weight)


HEADS["distance"] = DistanceHead
