"""The tuner of CPE_CLIP."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hf_cl.adapters.cpe_clip.config import TEXT_HEAD, CPEClipConfig
from hf_cl.adapters.cpe_clip.hooks import install
from hf_cl.adapters.cpe_clip.layer import CPEClipLayer, PromptSettings
from hf_cl.adapters.cpe_clip.sites import TextTower, VisionTower, text_tower, vision_tower
from hf_cl.adapters.cpe_clip.words import token_ids_of
from hf_cl.adapters.text_head import settle_text_head
from hf_cl.adapters.tuner import HeadedTuner


class CPEClipModel(HeadedTuner):
    """CPE-CLIP's prompts on transformers' CLIP and SigLIP, their lone towers, and open_clip models.

    There is no identity at initialisation: prompts change the attention. `merge` is refused, `unload` gives the base back. One adapter is
    active at a time. A projection shared by the towers gets no gradient from a step that runs the text tower alone: DistributedDataParallel
    then needs `find_unused_parameters`.
    """

    prefix: str = "cpe_clip_"
    tuner_layer_cls = CPEClipLayer

    def put_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        super().put_adapter(model, adapter_name, *args, **kwargs)
        for path, layer in _anchors(model):
            if not layer.handles:
                text = text_tower(model)
                owns_text = text is not None and text.anchor == path
                layer.handles = install(model, layer, text if owns_text else None, vision_tower(model))

    def check_config(self, config: CPEClipConfig) -> None:
        text, vision = self._towers(config)
        depths = [tower.depth for tower in (text, vision) if tower is not None]
        if config.prompt_depth is None:
            config.prompt_depth = min(depths)
        if config.prompt_depth > max(depths):
            raise ValueError(
                f"prompt_depth {config.prompt_depth} is more than the {max(depths)} layers of the deepest tower that gets prompts."
            )
        if text is not None and text.first + config.num_prompt_tokens + 2 > text.max_positions:
            raise ValueError(
                f"num_prompt_tokens {config.num_prompt_tokens} leaves no room for a class name in the {text.max_positions} tokens that "
                "the text tower reads."
            )
        if config.init == "words" and config.init_token_ids is None:
            config.init_token_ids = token_ids_of(self.model, config.init_text or "")
        settle_text_head(config, self.model, TEXT_HEAD)

    def _towers(self, config: CPEClipConfig) -> tuple[TextTower | None, VisionTower | None]:
        """The towers that the config puts prompts in."""
        text = text_tower(self.model) if config.towers != "vision" else None
        vision = vision_tower(self.model) if config.towers != "text" else None
        for name, tower in (("text", text), ("vision", vision)):
            if config.towers in ("both", name) and tower is None:
                other = "vision" if name == "text" else "text"
                raise ValueError(f"{type(self.model).__name__} has no {name} tower; towers is {config.towers!r}. Use towers={other!r}.")
        return text, vision

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        text, vision = self._towers(peft_config)
        peft_config.target_modules = {(text or vision).anchor}  # pyright: ignore
        return peft_config

    def _create_and_replace(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        peft_config: CPEClipConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs: Any,
    ) -> None:
        text, vision = self._towers(peft_config)
        settings = PromptSettings(
            num_tokens=peft_config.num_prompt_tokens,
            depth=peft_config.prompt_depth or 1,
            text_width=None if text is None else text.width,
            vision_width=None if vision is None else vision.width,
            coupling=peft_config.coupling,
            vision_mode=peft_config.vision_mode,
            init=peft_config.init,
            init_seed=peft_config.init_seed,
        )
        layer = target if isinstance(target, CPEClipLayer) else CPEClipLayer(target, adapter_name)
        layer.update_layer(adapter_name, settings, self._words(peft_config, text), peft_config.inference_mode)
        if layer is not target:
            if adapter_name not in self.active_adapters:
                layer.requires_grad_(False)
            setattr(parent, target_name, layer)

    def _words(self, config: CPEClipConfig, text: TextTower | None) -> Tensor | None:
        """[L, D] embeddings of the first tokens of `init_text`."""
        if config.init != "words" or text is None:
            return None
        ids, count = config.init_token_ids or [], config.num_prompt_tokens
        if len(ids) < count:
            raise ValueError(f"init_text {config.init_text!r} has {len(ids)} tokens; num_prompt_tokens is {count}.")
        embedding: Any = self.model.get_submodule(text.embedding)
        weight: Tensor = embedding.weight
        if any(not 0 <= i < len(weight) for i in ids):
            raise ValueError(f"init_token_ids {ids[:5]} are not all among the {len(weight)} tokens of this base.")
        if weight.is_meta:
            return None
        with torch.no_grad():
            return weight[torch.tensor(ids[:count], device=weight.device)].detach().float().cpu()

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # reached at unload only
        if isinstance(child, CPEClipLayer):
            child.remove_hooks()
        setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        raise NotImplementedError("Prompts are inputs and cannot be merged into weights; use `unload()` for the base model.")


def _anchors(model: nn.Module) -> list[tuple[str, CPEClipLayer]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, CPEClipLayer)]
