"""A loss: the old classes' scores stay where the last session left them."""

from torch.nn import functional as F

from hf_cl.contracts import LossTerm


class Distillation(LossTerm):
    """Learning without forgetting (Li and Hoiem, ECCV 2016)."""

    name = "distillation"
    needs = frozenset({"previous", "all_classes"})

    def __init__(self, temperature=2.0, weight=1.0):
        self.temperature, self.weight = temperature, weight

    def __call__(self, ctx):
        before = ctx.frozen("previous", view=0).logits / self.temperature  # [B, classes before this session]
        now = ctx.logits[:, : before.shape[1]] / self.temperature
        return self.temperature**2 * F.cross_entropy(now, before.softmax(-1))
