"""From a data set of images to batches on the device: decoded once, augmented in batches, preprocessed by the model's own processor."""

from hf_cl.images.augment import AUGMENTATIONS, Augmentation, build_augmentation, check_augmentation
from hf_cl.images.batches import eval_batches, exact_batches, labels_of, train_batches, view_name
from hf_cl.images.crops import RandomResizedCropFlip
from hf_cl.images.decode import Forms
from hf_cl.images.free_memory import free_memory
from hf_cl.images.host import Host, make_folder
from hf_cl.images.pixels import PixelStore, StoredImages
from hf_cl.images.plan import plan, sequential
from hf_cl.images.preprocess import Preprocessor

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "Forms",
    "Host",
    "PixelStore",
    "Preprocessor",
    "RandomResizedCropFlip",
    "StoredImages",
    "build_augmentation",
    "check_augmentation",
    "eval_batches",
    "exact_batches",
    "free_memory",
    "labels_of",
    "make_folder",
    "plan",
    "sequential",
    "train_batches",
    "view_name",
]
