"""What every hf_cl tuner adds to peft's: support table, base signature, class names and head."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file
from torch import Tensor, nn

from hf_cl._peft import BaseTuner, BaseTunerLayer
from hf_cl.adapters.bases import check_signature, check_supported, classifier_path, classifier_width, signature
from hf_cl.adapters.config import HeadedConfig
from hf_cl.adapters.field_types import check_count
from hf_cl.adapters.files import Entry, bare, check_entries, entries_of, naming, read_header
from hf_cl.adapters.head_wrapper import HeadWrapper
from hf_cl.adapters.low_rank_linear import LowRankLinear
from hf_cl.adapters.pooled import check_pool
from hf_cl.adapters.pseudo_words import has_words, place_words, remove_words, words_of
from hf_cl.adapters.query_pass import QueryPass
from hf_cl.adapters.small.arrival import CODES, await_codes, place_of, stop_waiting, whole_entries, whole_tensors
from hf_cl.adapters.small.tensors import read_table
from hf_cl.adapters.text_head import check_text_head
from hf_cl.adapters.text_logits import place_text_logits, remove_text_logits, sync_text_labels
from hf_cl.adapters.token_map import check_tokens
from hf_cl.adapters.undo import undone_on_error
from hf_cl.adapters.unloaded import settle_heads
from hf_cl.hints import refuse

_WIDTH = 4096
"""Taken for a base whose config names no width."""


class HeadedTuner(BaseTuner):
    """First base class of a tuner whose config is a `HeadedConfig`.

    `inject_adapter` is the one method that get_peft_model, add_adapter, PeftModel.load_adapter and transformers' load_adapter all reach,
    for the first adapter and for later ones (peft's pre- and post-injection hooks run for the first only).
    """

    model: nn.Module
    roles: tuple[str, ...] = ()
    """Names beyond "pretrained" and "previous" that `Context.frozen` may ask this adapter for."""
    extras: tuple[str, ...] = ()
    """Names of what it hands out of a forward, for losses: tensors [B, ...], facts of each image."""
    trained_fields: tuple[str, ...] = ()
    """Fields of the config that training changes, beside those that `grow` extends and the temperature: checkpoints hold them."""

    can_be_emptied: bool = False
    """Whether `empty` can be called: what the adapter adds to the base can be nothing."""

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """As peft's, all or nothing: where the adapter does not fit the base, or its file does not fit its config, the base is as before.

        Raises ValueError, saying what does not fit.
        """
        config: Any = self.peft_config[adapter_name]
        folder = config.folder()
        found = read_header(folder) if folder is not None else None
        with undone_on_error(model), naming(folder):
            self.put_adapter(model, adapter_name, *args, **kwargs)
            if folder is not None and found is not None:
                found = found if config.small is None else whole_entries(found, read_table(config.small), self.prefix)
                self.check_file(folder / SAFETENSORS_WEIGHTS_NAME, adapter_name, found)
            if config.small is not None:
                self._await_codes(model, adapter_name, config)

    def _await_codes(self, model: nn.Module, adapter_name: str, config: Any) -> None:
        def load(tensors: dict[str, Tensor]) -> None:
            state = self._remap_adapter_state_dict_for_load(model, config, adapter_name, tensors)  # pyright: ignore[reportArgumentType]
            model.load_state_dict(state, strict=False)

        await_codes(model, self.prefix, adapter_name, config, lambda key: self._remove_adapter_name_from_key(key, adapter_name), load)

    @classmethod
    def whole_state(cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a file holds, with its codes expanded, where it is a small one; a tuner whose remapping reads tensors asks for it first."""
        if config.small is None or not any(name.endswith(f"{place_of(cls.prefix)}.{CODES}") for name in state_dict):
            return state_dict
        whole = whole_tensors(state_dict, read_table(config.small), cls.prefix)
        stop_waiting(model, cls.prefix, adapter_name)
        config.small = None
        return whole

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        whole = cls.whole_state(model, config, adapter_name, state_dict)
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, whole)

    def check_file(self, file: Path, adapter_name: str, found: Mapping[str, Entry]) -> None:
        """Raise ValueError unless the tensors of the file are those of the adapter, which is in its place.

        `found` are the entries that its config describes: those of the file, or of the tensors that its codes stand for.
        """
        check_entries(str(file), found, self.expected_entries(adapter_name))

    def tensors_of(self, file: Path, adapter_name: str) -> dict[str, Tensor]:
        """The tensors of the adapter's file, named below the base model; whole ones."""
        config: Any = self.peft_config[adapter_name]
        tensors = {bare(name): tensor for name, tensor in load_file(file).items()}
        return tensors if config.small is None else whole_tensors(tensors, read_table(config.small), self.prefix)

    def expected_entries(self, adapter_name: str) -> dict[str, Entry]:
        """What a file of this adapter holds, named as `read_header` does."""
        state = get_peft_model_state_dict(self, adapter_name=adapter_name, save_embedding_layers=False)
        return entries_of({name.removeprefix("model."): tensor for name, tensor in state.items()})

    def put_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """The injection itself."""
        config: Any = self.peft_config[adapter_name]
        check_supported(config.peft_type.value, model)
        if config.base_signature is None:
            config.base_signature = signature(model)
        else:
            check_signature(config.base_signature, model)
        self.check_config(config)
        check_text_head(config, model)
        check_pool(config.head, model)
        check_tokens(config.head, model)
        _check_modules_to_save(config, model)
        headed = config.class_names and not config.has_text_head  # a text head is the model's own text tower
        if headed:
            self._place_head(model, adapter_name, config)
        if config.has_text_head:
            place_words(model, adapter_name, config)
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        if headed:
            self.head_wrapper().attach_switch()
            self.head_wrapper().attach_taps(model)
        if config.has_text_head:
            place_text_logits(model, self.peft_config)
        sync_text_labels(model)

    def check_config(self, config: Any) -> None:
        """Raise ValueError for a config that does not fit the base (`config.base_signature`), before anything is injected."""

    def check_rank(self, rank: int) -> None:
        """Raise ValueError for a rank beyond every use: four times the base's width, which is the longer side of its matrices."""
        width = signature(self.model)["hidden_size"] or _WIDTH
        check_count("r", rank, 4 * width, f"no low rank for a base of width {width}")

    def _place_head(self, model: nn.Module, adapter_name: str, config: Any) -> None:
        path = classifier_path(model)
        config.head = dict(config.head or {"type": "linear"})
        config.modules_to_save = sorted({*(config.modules_to_save or ()), path})
        current = model.get_submodule(path)
        if isinstance(current, HeadWrapper):
            current.configs[adapter_name] = config
        else:
            model.set_submodule(path, HeadWrapper(current, adapter_name, model, classifier_width(model), config))

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:  # peft says None and returns the model
        placed = [m for m in self.model.modules() if isinstance(m, HeadWrapper)]
        temperature = placed[0].temperature if placed else None
        wrappers = [wrapper for wrapper in placed if wrapper.source != "features"]
        merges = args[0] if args else kwargs.get("merge", True)
        if wrappers and merges:
            what = {"pooled": "pooled output (pool: pooled)", "tokens": "patch tokens"}[wrappers[0].source]
            raise ValueError(
                f"This head reads the vision tower's {what}, which a plain model does not give its classifier, so "
                "nothing can be merged that would classify alike. Use the adapter as it is, or `hf-cl export ADAPTER DIR --form onnx`."
            )
        if merges and has_words(self.model):
            raise ValueError(
                "Classes of this text head go by learned words, for which a plain model has no place, so nothing can be merged that would "
                "classify alike. Use the adapter as it is, or `hf-cl export ADAPTER DIR --form onnx`."
            )
        model: Any = super()._unload_and_optionally_merge(*args, **kwargs)
        for wrapper in placed:
            wrapper.configs.clear()
            wrapper.detach_taps()
        for wrapper in wrappers:  # any other head stays at the classifier's place; this one would be given other features there
            model.set_submodule(classifier_path(model), wrapper.original_module)
            wrapper.enable_adapters(False)  # the base's labels
        settle_heads(model, temperature)
        remove_text_logits(model)
        remove_words(model)
        return model

    def _check_merge_allowed(self) -> None:
        super()._check_merge_allowed()
        layers: dict[str, Any] = dict(self.model.named_modules())
        if pair := next((name for name, m in layers.items() if isinstance(getattr(m, "base_layer", None), LowRankLinear)), None):
            raise ValueError(
                f"The base is compressed to low rank, and a change of the whole matrix at {pair} has no place in its two factors. Use the "
                "adapter as it is, or `hf-cl export ADAPTER DIR --form onnx`."
            )

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """As peft's; labels follow."""
        super().set_adapter(adapter_name, inference_mode)
        sync_text_labels(self.model)

    def delete_adapter(self, adapter_name: str) -> None:
        """As peft's; labels follow. Where it alone was active, the first by name of those left is active then, as a warning says."""
        others = sorted(self.peft_config.keys() - {adapter_name})
        merged = any(adapter_name in layer.merged_adapters for layer in self.model.modules() if isinstance(layer, BaseTunerLayer))
        if others and self.active_adapters == [adapter_name] and not merged:  # peft refuses below what is merged
            # peft lets each layer choose: the first one chooses for all, and one that only this adapter has would choose none
            warnings.warn(f"Adapter {adapter_name} was active which is now deleted. Setting active adapter to {others[0]}.", stacklevel=3)
            self.set_adapter(others[0])
        super().delete_adapter(adapter_name)
        sync_text_labels(self.model)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # at unload peft's own copies `.weight`, which a block or an attention module does not have
        is_its_own = new_module is getattr(child, "base_layer", None)
        if is_its_own and "weight" not in new_module._parameters:
            setattr(parent, child_name, new_module)
        else:
            super()._replace_module(parent, child_name, new_module, child)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """The layers run the active adapter for the whole batch; a tuner whose layers can do otherwise overrides this."""
        if kwargs.get("adapter_names") is not None:  # without this peft drops the argument and everybody gets the active adapter
            config: Any = next(iter(self.peft_config.values()))
            raise NotImplementedError(f"{config.peft_type.value} does not support batches of mixed adapters (adapter_names).")
        yield

    def empty(self) -> None:
        """Let the active adapter change nothing: its features are the base's, through every loading route and merged. The head stays."""
        raise NotImplementedError(f"{type(self).__name__} does not implement empty")

    @contextmanager
    def given(self, batch: Mapping[str, Tensor], times: int = 1) -> Iterator[None]:
        """While it lasts, forwards are of the images of `batch`, `times` over: an adapter that goes by more than pixels reads it there."""
        yield

    def take_extras(self) -> dict[str, Tensor]:
        """What `extras` names, of the last forward; handed out once, so that no graph outlives its step."""
        return {}

    def query_pass(self) -> QueryPass | None:
        """What asks the untouched tower before each forward; None for an adapter that does not choose by the image."""
        return None

    def head_wrapper(self) -> HeadWrapper:
        """The wrapper at the classifier's place.

        Raises ValueError where no adapter has class names.
        """
        for module in self.model.modules():
            if isinstance(module, HeadWrapper):
                return module
        raise ValueError("This model has no head of hf_cl: its adapter config has no class_names.")

    def grow(self, adapter_name: str, class_names: Sequence[str]) -> None:
        """A session begins: the config's class names and sizes of sessions grow, and with them rows and labels of the head.

        Called for every session from the second on, also for one without a new class and for those that a resume replays. An adapter that
        has something per session overrides it, calls `super().grow(...)` and appends what is new; when it is loaded,
        `len(config.classes_per_session)` says how many there are. The model must be prepared again afterwards.
        """
        config: Any = self.peft_config[adapter_name]
        before = config.classes_per_session or [len(config.class_names)]
        if config.has_text_head:
            config.class_names = [*config.class_names, *class_names]
            words = words_of(self.model, config)
            if words is not None:
                words.grow(len(class_names))
            sync_text_labels(self.model)
        else:
            self.head_wrapper().grow(adapter_name, class_names)  # which extends the config's list of names
        config.classes_per_session = [*before, len(class_names)]

    def grow_domains(self, adapter_name: str, domain_names: Sequence[str]) -> None:
        """A session begins whose domains, and those before it, are these, as `Session.domain_names` has them. Nothing, for most adapters.

        Called behind `grow`, and behind injection, also where no domain is new or none is known.
        """

    def set_domain(self, domain: str | float | None) -> None:
        """Let the active adapters take all images for those of one domain. Raises ValueError for a type that has nothing for a domain."""
        config: Any = next(iter(self.peft_config.values()))
        raise ValueError(f"{config.peft_type.value} takes images of all domains alike; there is none to choose.")


def check_fit(config: HeadedConfig, model: nn.Module) -> None:
    """Before a run opens its data: does its adapter fit the base? Nothing is injected, and the config stays as it is.

    Raises ValueError with all that can be seen without putting the adapter in.
    """
    check_supported(config.peft_type.value, model)  # pyright: ignore[reportAttributeAccessIssue]
    faults = config.misfits(model)
    for check in (lambda: check_text_head(config, model), lambda: check_pool(config.head, model), lambda: check_tokens(config.head, model)):
        try:
            check()
        except ValueError as error:
            faults.append(str(error))
    refuse(faults)


def _check_modules_to_save(config: Any, model: nn.Module) -> None:
    containers = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
    for path, module in model.named_modules():
        if isinstance(module, containers) and any(path.endswith(name) for name in config.modules_to_save or ()):
            raise ValueError(f"modules_to_save names {path!r}, a container; name the modules in it.")
