"""Controlled fine-tuning and the roles of ASYNC_LORA: copies, teacher, and the states of the end of session 0."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from hf_cl.adapters.async_lora.config import AsyncLoraConfig
from hf_cl.adapters.async_lora.layer import COPY, AsyncLoraLayer
from hf_cl.adapters.async_lora.states import RoleStates, State, swapped
from hf_cl.adapters.async_lora.unfreezing import frozen_blocks, modules_to_copy, place_of_blocks
from hf_cl.adapters.head_wrapper import HeadWrapper
from hf_cl.adapters.tuner import HeadedTuner
from hf_cl.contracts import Head
from hf_cl.heads import PoolerHead
from hf_cl.hints import nearest

SWITCHES = {"teacher": (False, True), "base": (True, True), "base_teacher": (False, True), "pretrained": (False, False)}
"""Role -> (LoRA on, copies on). "pretrained" is the adapter's own because the head's pooler takes part in it."""

_LARGE = 100 * 2**20
"""Bytes of copies above which a user is told what every saved session costs."""


class RolePlayer(HeadedTuner):
    """The part of the tuner that trains. All methods act on the one active adapter; ValueError where there is not exactly one."""

    roles = tuple(SWITCHES)
    states: dict[str, RoleStates]

    def unfreeze(self, *, teacher: bool = True) -> None:
        """Put the copies to use, from the base's values, and start the teacher. Does nothing the second time.

        For an adapter that was loaded, the teacher starts from its present copies; without `teacher` there is none. Raises ValueError
        without `unfreeze_from`, and while adapters are merged.
        """
        name, config = self._active()
        if config.unfreeze_from is None:
            raise ValueError("unfreeze() needs unfreeze_from in the adapter's config: the first block whose weights train.")
        self._check_unmerged(self.layers())
        if not config.unfrozen:
            if not self._copies(name):  # loaded for inference
                self.add_copies(self.model, name, config)
            for layer in self.layers():
                if name in layer.async_lora_copy:
                    layer.start_copy(name)
            config.unfrozen = True
        if teacher and self._states(name).teacher is None:
            self._states(name).start_teacher(self._unfrozen(name))

    def copies_train(self) -> bool:
        """Whether any copy requires a gradient."""
        return any(p.requires_grad for p in self._copies(self._active()[0]).values())

    def update_teacher(self) -> None:
        """One step of the moving average; nothing before `unfreeze`."""
        name, config = self._active()
        states = self._states(name)
        if states.teacher is not None:
            states.update_teacher(self._unfrozen(name), config.ema_decay)

    def keep(self, *roles: str, clone: bool = False) -> None:
        """Hold the present student for the role `base`, the present teacher for `base_teacher`: called at the end of session 0.

        `clone` where copies, pooler or teacher change later; without it these states share their storage.
        """
        name, _ = self._active()
        if "base" in roles:
            self._states(name).keep_student(self._student(name), self._unfrozen(name), clone=clone)
        if "base_teacher" in roles:
            self._states(name).keep_teacher(clone=clone)

    def role_tensors(self, role: str) -> State:
        """Name of a parameter of the model -> what stands in its place under `role`.

        Raises ValueError for an unknown role, and for one that has no state yet.
        """
        name, config = self._active()
        states = self._states(name)
        if role not in self.roles:
            raise ValueError(f"ASYNC_LORA has no role {role!r}; it has {', '.join(self.roles)}.{nearest(role, self.roles)}")
        state = getattr(states, role)
        if role == "teacher" and state is None and config.unfrozen:
            raise ValueError("A loaded adapter has no teacher; unfreeze() starts one from its present weights.")
        if role in ("base", "base_teacher") and state is None:
            raise ValueError(f"The role {role!r} begins when session 0 ends (keep); this adapter has not come so far.")
        if not state and not states.pretrained and self._pooler(name):  # pretrained, or a teacher that has not started
            raise ValueError("The pooler of the pre-trained model is not known: the checkpoint of this base has none.")
        return states.pretrained if state is None else state

    @contextmanager
    def role(self, role: str, pixel_values: Tensor | None = None) -> Iterator[None]:
        """Let backbone and head play `role` inside the block, without gradients. Train or eval mode is the caller's.

        With `pixel_values` [B, 3, S, S], the images that the model is about to see in eval mode, roles without LoRA share one pass through
        the blocks below `unfreeze_from`.

        Raises ValueError as `role_tensors`, and while adapters are merged.
        """
        layers = self.layers()
        self._check_unmerged(layers)
        tensors = self.role_tensors(role)
        switches = [(layer, layer.lora_on, layer.copies_on) for layer in layers]
        try:
            for layer in layers:
                layer.lora_on, layer.copies_on = SWITCHES[role]
            with torch.no_grad(), swapped(self.model, tensors), self._sharing(role, pixel_values):
                yield
        finally:
            for layer, lora_on, copies_on in switches:
                layer.lora_on, layer.copies_on = lora_on, copies_on

    def _sharing(self, role: str, pixel_values: Tensor | None) -> AbstractContextManager[None]:
        if pixel_values is None or SWITCHES[role][0]:
            return nullcontext()
        name, config = self._active()
        start: Any = config.unfreeze_from  # `last` has its number since injection
        return self.states[name].shared.first_blocks(*place_of_blocks(self.model), frozen_blocks(self.model, start), pixel_values)

    def training_state(self) -> dict[str, Any]:
        """What a checkpoint needs beside the adapter's own tensors: whether it is unfrozen, and the states of the roles."""
        name, config = self._active()
        return {"unfrozen": config.unfrozen, "states": self._states(name).pack(self._student(name))}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `training_state`, once the adapter's own tensors have their values back."""
        name, config = self._active()
        config.unfrozen = state["unfrozen"]
        if config.unfrozen:
            for layer in self.layers():
                layer.frozen_peft_weight_names.pop(name, None)
        self._states(name).unpack(state["states"], self._student(name))

    def add_copies(self, model: nn.Module, adapter_name: str, config: AsyncLoraConfig) -> None:
        """Wrap what `unfreeze_from` unfreezes and copy its weights; they rest until they are unfrozen."""
        trains = config.unfrozen and not config.inference_mode and adapter_name in self.active_adapters
        size = 0
        for name in modules_to_copy(model, config.unfreeze_from):  # pyright: ignore[reportArgumentType]
            path, _, child = name.rpartition(".")
            parent = model.get_submodule(path)
            is_new = not isinstance(getattr(parent, child), AsyncLoraLayer)
            layer = AsyncLoraLayer.at(parent, child, adapter_name)
            if is_new:
                layer.set_adapter(self.active_adapters)
            layer.add_copy(adapter_name, config)
            layer.async_lora_copy[adapter_name].requires_grad_(trains)
            size += sum(p.numel() * p.element_size() for p in layer.async_lora_copy[adapter_name].parameters())
        if size > _LARGE and not config.inference_mode:
            warnings.warn(
                f"unfreeze_from={config.unfreeze_from} copies {size / 2**20:.0f} MB of weights; every session that is saved once they are "
                "unfrozen has that size.",
                stacklevel=2,
            )

    # What the active adapter owns, by name
    def _active(self) -> tuple[str, AsyncLoraConfig]:
        if len(self.active_adapters) != 1:
            raise ValueError(f"This needs exactly one active adapter; active are {self.active_adapters}.")
        name = self.active_adapters[0]
        return name, self.peft_config[name]  # pyright: ignore[reportReturnType]

    def _states(self, name: str) -> RoleStates:
        """Where the model is now."""
        self.states[name].follow(next(self.model.parameters()).device)
        return self.states[name]

    def layers(self) -> list[AsyncLoraLayer]:
        """All tuner layers."""
        return [module for module in self.model.modules() if isinstance(module, AsyncLoraLayer)]

    @staticmethod
    def _check_unmerged(layers: Iterable[AsyncLoraLayer]) -> None:
        if any(layer.merged for layer in layers):
            raise ValueError("This needs the base weights as they are; call unmerge_adapter() first.")

    def _copies(self, name: str) -> dict[str, Tensor]:
        return {key: p for key, p in self.model.named_parameters() if f".{COPY}.{name}." in key}

    def _unfrozen(self, name: str) -> dict[str, Tensor]:
        """What the teacher averages: copies and pooler."""
        return self._copies(name) | self._pooler(name)

    def _student(self, name: str) -> dict[str, Tensor]:
        """Every tensor of the adapter."""
        path, head = self._head(name)
        lora = {key: p for key, p in self.model.named_parameters() if f".async_lora_A.{name}." in key or f".async_lora_B.{name}." in key}
        in_head = {} if head is None else dict(head.named_parameters()) | dict(head.named_buffers())
        return lora | self._copies(name) | {f"{path}{key}": t for key, t in in_head.items()}

    def _pooler(self, name: str) -> dict[str, Tensor]:
        path, head = self._head(name)
        return {f"{path}pooler.{key}": p for key, p in head.pooler.named_parameters()} if isinstance(head, PoolerHead) else {}

    def _head(self, name: str) -> tuple[str, Head | None]:
        """Prefix of its parameters' names, and the head."""
        for path, module in self.model.named_modules():
            if isinstance(module, HeadWrapper) and name in module.modules_to_save:
                return f"{path}.modules_to_save.{name}.", module.head(name)
        return "", None
