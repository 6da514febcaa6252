"""Words of their own for classes whose names say nothing: token embeddings that stand in a text where the name would.

Shapes: C classes, W words of a class, T text positions, D width of the text tower's embeddings, E embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hf_cl._peft import BaseTunerLayer, ModulesToSaveWrapper
from hf_cl.adapters.bases import OPEN_CLIP, family_of
from hf_cl.adapters.config import HeadedConfig
from hf_cl.heads.text import TextHeadSpec

PLACE = "pseudo_words"
"""Where the base has the words of all its adapters, and under which name an adapter's file has its own."""


class Words(NamedTuple):
    """Learned words of the texts of a batch."""

    vectors: Tensor  # [C, W, D]
    learned: Tensor
    """[C] bool: the texts that have words; the others go by their tokens alone."""
    marker: int | Tensor
    """The token id that keeps a place for each word; [C, 1] where the texts are of several templates."""


class PseudoWords(nn.Module):
    """The words of one adapter's classes.

    They are a buffer: found once, when a class arrives (`hf_cl.adapters.learned_words`), and a constant of the class from then on, as the
    token ids of a name are. Beside them lies the mean image of each class, which stands in for its images when later classes look for
    words.

    Args:
        num_classes: C.
        words: W, words of a class.
        width: D.
        image_width: E.
        device: of the vectors.
    """

    vectors: Tensor
    """[C, W, D] float32; NaN for a class that goes by its name."""
    images: Tensor
    """[C, E] float32: mean of the class's image embeddings at unit length, through the untouched base; NaN for a class without an image."""

    def __init__(self, num_classes: int, words: int, width: int, image_width: int, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.full((num_classes, words, width), torch.nan, dtype=torch.float32, device=device))
        self.register_buffer("images", torch.full((num_classes, image_width), torch.nan, dtype=torch.float32, device=device))

    def grow(self, count: int) -> None:
        """Room for `count` classes more, which go by their names until words are written."""
        self.vectors, self.images = (
            torch.cat([own, own.new_full((count, *own.shape[1:]), torch.nan)]) for own in (self.vectors, self.images)
        )

    @torch.no_grad()
    def write(self, classes: Sequence[int], vectors: Tensor) -> None:
        """Give some classes [c, W, D] words."""
        self.vectors[list(classes)] = vectors.to(self.vectors)

    @torch.no_grad()
    def remember(self, images: Tensor, labels: Tensor) -> None:
        """Keep the mean image of each class that is among [n, E] embeddings at unit length with [n] labels."""
        for label in labels.unique().tolist():
            self.images[label] = images[labels == label].mean(0).to(self.images)

    def earlier(self, labels: Tensor) -> Tensor:
        """[k] the classes with a mean image that are not among [n] labels."""
        return torch.tensor(sorted({*torch.nonzero(~self.images.isnan().any(1)).flatten().tolist()} - {*labels.tolist()}), dtype=torch.long)

    def extra_repr(self) -> str:
        return f"classes={self.vectors.shape[0]}, words={self.vectors.shape[1]}, width={self.vectors.shape[2]}"


class PseudoWordsWrapper(ModulesToSaveWrapper):
    """The words of every adapter that has some, at `model.pseudo_words`: peft saves, loads, switches and deletes them as it does heads.

    Each module is made from its config instead of copied from the base's, which has none.
    """

    def __init__(self, model: nn.Module, adapter_name: str, config: HeadedConfig) -> None:
        nn.Module.__init__(self)
        self.configs: dict[str, HeadedConfig] = {adapter_name: config}
        self._base = (model,)  # a tuple: no module may register its own ancestor
        super().__init__(nn.Identity(), adapter_name)

    def update(self, adapter_name: str, tied_module: nn.Module | None = None, **kwargs: Any) -> None:
        if adapter_name not in self.modules_to_save and adapter_name in self.configs:
            config, embedding = self.configs[adapter_name], token_embedding(self._base[0])
            words = TextHeadSpec.of(config.head or {}).words_per_class
            device = None if embedding.weight.is_meta else embedding.weight.device
            widths = embedding.weight.shape[1], joint_width(self._base[0])
            self.modules_to_save[adapter_name] = PseudoWords(len(config.class_names or []), words, *widths, device)
        super().update(adapter_name, tied_module, **kwargs)

    def words_of(self, config: HeadedConfig) -> PseudoWords | None:
        """The words of the adapter with this config."""
        for name, own in self.configs.items():
            if own is config:
                return self.modules_to_save[name]  # pyright: ignore[reportReturnType]
        return None

    def delete_adapter(self, adapter_name: str, new_active_adapters: list[str] | None) -> None:
        super().delete_adapter(adapter_name, new_active_adapters)
        self.configs.pop(adapter_name, None)


class PlaceWords:
    """A hook on the token embedding. Outside of `placed` it leaves everything as it is.

    An object and no closure, so that a copied or pickled model has its own. What else looks at the ids (masks, pooling, prompts that are
    put in front) sees ordinary tokens.
    """

    def __init__(self) -> None:
        self.pending: Words | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        words = self.pending
        if words is None:
            return None
        own = (args[0] == words.marker) & words.learned[:, None]  # [C, T]
        number = own.cumsum(1) * own  # [C, T]: 1 at a text's first word, 2 at its second
        for w in range(words.vectors.shape[1]):
            output = torch.where((number == w + 1)[..., None], words.vectors[:, w, None].to(output.dtype), output)  # [C, T, D]
        return output


def token_embedding(model: Any) -> Any:
    """The nn.Embedding of the text tower, below what adapters have put around it.

    Raises ValueError for a text tower without one.
    """
    if family_of(model) == OPEN_CLIP:
        tower = dict(model.named_children()).get("text", model)
        module = dict(tower.named_children()).get("token_embedding")
        if module is None:
            raise ValueError(f"learned_words needs open_clip's own text transformer; this text tower is a {type(tower).__name__}.")
    else:
        module = model.text_model.embeddings.token_embedding
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def joint_width(model: Any) -> int:
    """E, of the space that both towers embed into."""
    family = family_of(model)
    if family == OPEN_CLIP:
        return model.visual.output_dim
    return model.config.projection_dim if family == "clip" else model.config.vision_config.hidden_size


def place_words(model: nn.Module, adapter_name: str, config: Any) -> None:
    """Before peft injects: room for an adapter's words where its text head has some.

    Raises ValueError for a text tower that words cannot be put into.
    """
    if not config.class_names or not TextHeadSpec.of(config.head or {}).learns_words:
        return
    embedding = token_embedding(model)
    config.modules_to_save = sorted({*(config.modules_to_save or ()), PLACE})
    placed = _wrapper(model)
    if placed is not None:
        placed.configs[adapter_name] = config
        return
    model.add_module(PLACE, PseudoWordsWrapper(model, adapter_name, config))
    if _hook(embedding) is None:
        embedding.register_forward_hook(PlaceWords())


def remove_words(model: nn.Module) -> None:
    """Take all words out of the base, once its adapters are unloaded."""
    if PLACE not in dict(model.named_children()):
        return
    delattr(model, PLACE)
    hooks = token_embedding(model)._forward_hooks
    for key in [key for key, hook in hooks.items() if isinstance(hook, PlaceWords)]:
        del hooks[key]


def words_of(model: nn.Module, config: HeadedConfig) -> PseudoWords | None:
    """The words of the adapter with this config, where it has some."""
    placed = _wrapper(model)
    return None if placed is None else placed.words_of(config)


def has_words(model: nn.Module) -> bool:
    """Whether a class of the active adapter goes by a learned word."""
    placed = _wrapper(model)
    if placed is None:
        return False
    modules = [placed.modules_to_save[name] for name in placed.active_adapters if name in placed.modules_to_save]
    return any(bool((~module.vectors.isnan()).any()) for module in modules if isinstance(module, PseudoWords))


@contextmanager
def placed(model: nn.Module, words: Words | None) -> Iterator[None]:
    """Texts that the tower reads within have `words` at their markers."""
    if words is None:
        yield
        return
    hook = _hook(token_embedding(model))
    if hook is None:
        raise RuntimeError("This base has no room for learned words: its adapter was injected without them.")
    hook.pending = words
    try:
        yield
    finally:
        hook.pending = None


def _wrapper(model: nn.Module) -> PseudoWordsWrapper | None:
    found = dict(model.named_children()).get(PLACE)
    return found if isinstance(found, PseudoWordsWrapper) else None


def _hook(embedding: nn.Module) -> PlaceWords | None:
    return next((hook for hook in embedding._forward_hooks.values() if isinstance(hook, PlaceWords)), None)
