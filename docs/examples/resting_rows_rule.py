"""A gradient rule: rows of earlier classes rest."""

from hf_cl.contracts import GradientRule
from hf_cl.rules.passes import run_pass


class OldRowsRest(GradientRule):
    """The plain gradient, but zero in the head's rows of earlier sessions."""

    first_new_class = 0

    def begin_session(self, trainer, session):
        self.first_new_class = session.first_new_class

    def compute(self, closures, named_parameters, accelerator, model):
        return run_pass(closures, accelerator, model)

    def transform(self, named_parameters):
        for name, parameter in named_parameters:
            if name in ("head.weight", "head.bias") and parameter.grad is not None:
                parameter.grad[: self.first_new_class] = 0
