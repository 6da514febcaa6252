"""The tuner of ASYNC_LORA."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftConfig
from torch import Tensor, nn

from hf_cl.adapters.async_lora.config import AsyncLoraConfig
from hf_cl.adapters.async_lora.layer import COPY, AsyncLoraLayer
from hf_cl.adapters.async_lora.pooler_weights import read_pooler
from hf_cl.adapters.async_lora.roles import RolePlayer
from hf_cl.adapters.async_lora.states import RoleStates
from hf_cl.adapters.bases import check_supported
from hf_cl.adapters.lora_files import save_lora
from hf_cl.adapters.quantised import refuse_quantised
from hf_cl.adapters.query_value import QueryValueTuner
from hf_cl.heads import PoolerHead
from hf_cl.hints import refuse


class AsyncLoraModel(RolePlayer, QueryValueTuner):
    """Asynchronous LoRA on the vision tower of ViT, DeiT, Dinov2, CLIP and SigLIP models.

    One backbone plays all roles: the student (LoRA and copies), the teacher (average of the copies, no LoRA), both as they were at the end
    of session 0 (`base`, `base_teacher`), and the pre-trained model. `RolePlayer` has the methods for that.
    """

    prefix: str = "async_lora_"
    trained_fields = ("unfrozen",)
    tuner_layer_cls = AsyncLoraLayer

    can_be_emptied = True

    @torch.no_grad()
    def empty(self) -> None:
        for layer in self.layers():
            for name in layer.active_adapters:
                if name in layer.async_lora_B:
                    layer.async_lora_B[name].weight.zero_()  # pyright: ignore[reportCallIssue]
                if name in layer.async_lora_copy:
                    layer.copy_base(name)

    # Injection
    def check_config(self, config: AsyncLoraConfig) -> None:
        self.check_rank(config.r)
        config.settle(self.model)

    def put_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: Mapping[str, Tensor] | None = None,
    ) -> None:
        config: AsyncLoraConfig = self.peft_config[adapter_name]  # pyright: ignore[reportAssignmentType]
        check_supported("ASYNC_LORA", model)
        is_new = config.base_signature is None  # the file of a saved adapter brings its pooler along
        asks = bool(config.class_names) and config.asks_for_pooler
        if asks and is_new:
            refuse(config.misfits(model))
        wanted = asks and (is_new or not config.inference_mode)
        pooler = (read_pooler(model) if wanted else None) or {}
        if state_dict is not None:  # its keys say where LoRA goes; where copies go says the config
            state_dict = {key: tensor for key, tensor in state_dict.items() if f".{COPY}." not in key}
        super().put_adapter(model, adapter_name, autocast_adapter_dtype, low_cpu_mem_usage, state_dict)
        if config.unfreeze_from is not None and (config.unfrozen or not config.inference_mode):
            self.add_copies(model, adapter_name, config)
        if "states" not in self.__dict__:  # peft injects the first adapter before a subclass's __init__ could make it
            self.states = {}
        self.states[adapter_name] = states = RoleStates()
        _, head = self._head(adapter_name)
        if pooler and isinstance(head, PoolerHead):
            head.load_pooler(pooler)
            states.pretrained = {name: pooler[name.rpartition(".")[2]] for name in self._pooler(adapter_name)}

    def _create_and_replace(  # pyright: ignore[reportIncompatibleMethodOverride] (peft's own tuners do the same)
        self,
        peft_config: AsyncLoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        base = target.base_layer if isinstance(target, AsyncLoraLayer) else target
        refuse_quantised("ASYNC_LORA", current_key, base)
        if not isinstance(base, nn.Linear):
            raise ValueError(f"ASYNC_LORA puts LoRA on nn.Linear modules; {current_key!r} is a {type(base).__name__}.")
        AsyncLoraLayer.at(parent, target_name, adapter_name).add_lora(adapter_name, peft_config)

    # Several adapters
    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """As peft's. Raises ValueError, with nothing switched, for adapters that both hold a copy of one module."""
        for layer in self.layers():
            layer.copy_in_use([adapter_name] if isinstance(adapter_name, str) else adapter_name)
        super().set_adapter(adapter_name, inference_mode)

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        self.states.pop(adapter_name, None)

    # Files: resting copies equal the base and are no part of them
    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        state = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        unfrozen = config.unfrozen  # pyright: ignore[reportAttributeAccessIssue]
        return state if unfrozen else {key: tensor for key, tensor in state.items() if f".{COPY}." not in key}

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        # peft looks for the name next to the last part of the key; inside a copied `embeddings` it stands further in front
        if f".{COPY}.{adapter_name}." in key:
            return key.replace(f".{COPY}.{adapter_name}.", f".{COPY}.")
        return super()._remove_adapter_name_from_key(key, adapter_name)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Width and depth of the base agree by now; what else a copy depends on (MLP, patches, image size) shows in its shape."""
        found = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        here = model.state_dict()
        for key, tensor in found.items():
            if f".{COPY}." in key and key in here and here[key].shape != tensor.shape:
                module, _, rest = key.removeprefix("base_model.model.").partition(f".{COPY}.{adapter_name}.")
                raise ValueError(
                    f"ASYNC_LORA: the adapter was made for a base with {module}.{rest} of shape {list(tensor.shape)}; this base has "
                    f"{list(here[key].shape)} there. Load the base that the adapter names."
                )
        return found

    def to_lora(self, folder: str | Path) -> None:
        """Write the active adapter as a stock LORA adapter. A linear head goes with it as `modules_to_save`, other heads do not.

        Raises ValueError once copies are in use: LoRA cannot express them.
        """
        name, config = self._active()
        if config.unfrozen:
            raise ValueError(
                "This adapter holds copies of unfrozen weights, which LoRA cannot express; merge_and_unload() gives a plain model."
            )
        factors = {
            path: (m.async_lora_A[name].weight, m.async_lora_B[name].weight)
            for path, m in self.model.named_modules()
            if isinstance(m, AsyncLoraLayer) and name in m.async_lora_A
        }
        save_lora(Path(folder), config, factors, name, self.model, config.lora_dropout)  # pyright: ignore[reportArgumentType]
