"""From a data set of images to batches on the device: decoded once, augmented in batches, preprocessed by the model's own processor."""

from hf_cl.images.augment import AUGMENTATIONS, Augmentation, build_augmentation, check_augmentation
from hf_cl.images.crops import RandomResizedCropFlip
from hf_cl.images.decode import DecodedImages
from hf_cl.images.loader import eval_batches, train_batches, view_name
from hf_cl.images.plan import plan, sequential
from hf_cl.images.preprocess import Preprocessor

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "DecodedImages",
    "Preprocessor",
    "RandomResizedCropFlip",
    "build_augmentation",
    "check_augmentation",
    "eval_batches",
    "plan",
    "sequential",
    "train_batches",
    "view_name",
]
