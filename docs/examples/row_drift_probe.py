"""A probe: how far the head's rows of earlier classes move in each session."""

from hf_cl.contracts import Probe


class RowDrift(Probe):
    """Looks and touches nothing."""

    name = "row_drift"

    def __init__(self):
        self.before, self.drift = None, []

    def begin_session(self, trainer, session):
        self.before = trainer.head.weight.detach()[: session.first_new_class].clone()

    def end_session(self, trainer, session):
        after = trainer.head.weight.detach()[: session.first_new_class]
        self.drift.append((after - self.before.to(after)).norm().item())

    def report(self):
        return {"drift": self.drift, "largest": max(self.drift)}

    def state_dict(self):
        return {"before": self.before, "drift": self.drift}

    def load_state_dict(self, state):
        self.before, self.drift = state["before"], state["drift"]
