"""A gradient rule: rows of earlier classes rest."""

from hf_cl.rules import Plain


class OldRowsRest(Plain):
    """The plain gradient, but zero in the head's rows of earlier sessions."""

    resting = 0

    def begin_session(self, trainer, session):
        self.resting = session.own.start

    def transform(self, named_parameters):
        for name, parameter in named_parameters:
            if name in ("head.weight", "head.bias") and parameter.grad is not None:
                parameter.grad[: self.resting] = 0
