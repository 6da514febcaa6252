"""Rules that hold the gradient against that of a reference loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from hf_cl.contracts import GradientRule, NamedParameters
from hf_cl.hints import nearest
from hf_cl.rules.passes import Losses, RandomState, add_gradients, put_gradients_aside, refuse_sharded, run_pass, total


class AgainstReference(GradientRule):
    """The reference is one of the phase's losses, kept out of the sum: the gradient is that of all the others.

    Two passes, with the same random numbers; the generators are left where one pass leaves them. Tensors without a reference gradient keep
    theirs. A subclass says in `combined` what becomes of the others.

    Args:
        reference: name of the reference loss.

    `compute` raises ValueError for a reference that is not among the losses or is the only one, for one that depends on nothing that
    trains, and under DeepSpeed or FSDP.
    """

    def __init__(self, reference: str) -> None:
        self.reference = reference

    def combined(self, gradient: Tensor, reference: Tensor, number: int) -> Tensor:
        """The step's gradient of the parameter of that number, from its own gradient and the reference's, both of the whole step."""
        raise NotImplementedError(f"{type(self).__name__} does not implement combined")

    def compute(
        self,
        closures: Sequence[Callable[[], dict[str, Tensor]]],
        named_parameters: NamedParameters,
        accelerator: Any,
        model: nn.Module,
    ) -> dict[str, Tensor]:
        refuse_sharded(accelerator, self)
        parameters = [p for _, p in named_parameters]
        before = put_gradients_aside(parameters)
        start = RandomState(accelerator.device)
        losses = run_pass(closures, accelerator, model, self._reference_loss)
        end = RandomState(accelerator.device)
        references = put_gradients_aside(parameters)
        if not references:
            raise ValueError(f"{type(self).__name__}: {self.reference!r} depends on nothing that trains in this phase.")
        start.restore()
        try:
            run_pass(closures, accelerator, model, self._other_losses)
        finally:
            end.restore()
        numbers = {id(p): number for number, p in enumerate(parameters)}
        for parameter, reference in references:
            if parameter.grad is not None:
                parameter.grad.copy_(self.combined(parameter.grad, reference, numbers[id(parameter)]))
        add_gradients(before)
        return losses

    def _reference_loss(self, losses: Losses) -> Tensor:
        if self.reference not in losses:
            raise ValueError(
                f"{type(self).__name__}: the phase has no loss {self.reference!r}; its losses are {', '.join(losses)}."
                f"{nearest(self.reference, losses)}"
            )
        return losses[self.reference]

    def _other_losses(self, losses: Losses) -> Tensor:
        others = {name: value for name, value in losses.items() if name != self.reference}
        if not others:
            raise ValueError(
                f"{type(self).__name__}: {self.reference!r} is the phase's only loss; it is kept out of the sum, so there must be others."
            )
        return total(others)
