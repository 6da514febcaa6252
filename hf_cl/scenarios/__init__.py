"""From data sets to sessions. Knows images and classes, no models.

`open_images` opens and checks a data set; a function of `SCENARIOS` cuts it into the sessions of a protocol, a `SessionStream`.
"""

from __future__ import annotations

from collections.abc import Callable

from hf_cl.errors import DataError, UnreadableImageError
from hf_cl.pictures import to_rgb
from hf_cl.scenarios.base_to_novel import base_to_novel, cross_dataset, domain_generalization
from hf_cl.scenarios.class_incremental import class_incremental
from hf_cl.scenarios.class_order import CLASS_ORDERS, resolve_class_order
from hf_cl.scenarios.content import content_hashes
from hf_cl.scenarios.domain_incremental import domain_incremental
from hf_cl.scenarios.few_shot import few_shot_class_incremental, few_shot_class_incremental_tuning
from hf_cl.scenarios.growth import KnownPictures
from hf_cl.scenarios.image_set import ImageSet
from hf_cl.scenarios.picture_check import UnreadableImage, check_pictures, find_unreadable
from hf_cl.scenarios.si_blurry import si_blurry
from hf_cl.scenarios.sources import ImageSource, open_images
from hf_cl.scenarios.stream import SessionStream

SCENARIOS: dict[str, Callable[..., SessionStream]] = {
    "class_incremental": class_incremental,
    "few_shot_class_incremental": few_shot_class_incremental,
    "few_shot_class_incremental_tuning": few_shot_class_incremental_tuning,
    "base_to_novel": base_to_novel,
    "cross_dataset": cross_dataset,
    "domain_generalization": domain_generalization,
    "domain_incremental": domain_incremental,
    "si_blurry": si_blurry,
}
"""Protocol name, as in results.json -> the function that cuts images into its sessions."""

__all__ = [
    "CLASS_ORDERS",
    "SCENARIOS",
    "DataError",
    "ImageSet",
    "ImageSource",
    "KnownPictures",
    "SessionStream",
    "UnreadableImage",
    "UnreadableImageError",
    "base_to_novel",
    "check_pictures",
    "class_incremental",
    "content_hashes",
    "cross_dataset",
    "domain_generalization",
    "domain_incremental",
    "few_shot_class_incremental",
    "few_shot_class_incremental_tuning",
    "find_unreadable",
    "open_images",
    "resolve_class_order",
    "si_blurry",
    "to_rgb",
]
