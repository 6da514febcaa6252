"""A gradient rule: rows of earlier classes rest."""

from hf_cl.rules import Plain


class OldRowsRest(Plain):
    """The plain gradient, but zero in the head's rows of earlier sessions."""

    first_new_class = 0

    def begin_session(self, trainer, session):
        self.first_new_class = session.first_new_class

    def transform(self, named_parameters):
        for name, parameter in named_parameters:
            if name in ("head.weight", "head.bias") and parameter.grad is not None:
                parameter.grad[: self.first_new_class] = 0
