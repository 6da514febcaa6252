"""One view of all bases."""

from hf_cl.adapters.learned_words import LearnedWordsHead
from hf_cl.adapters.pseudo_words import PseudoWords
from hf_cl.adapters.text_classifier import TextHead, check_class_names
from hf_cl.backbones.class_targets import texts_of
from hf_cl.backbones.class_texts import EncodedNames, encode_names, reads_texts
from hf_cl.backbones.clip_classifier import AnyClassifier, ClipClassifier, classifier_of
from hf_cl.backbones.image_classifier import FeatureClassifier, ImageClassifier
from hf_cl.backbones.loading import demo_backbone, load_backbone, load_processor
from hf_cl.backbones.open_clip import OpenClipForImageClassification
from hf_cl.backbones.two_towers import enable_gradient_checkpointing, load_tokenizer, load_two_towers

__all__ = [
    "AnyClassifier",
    "ClipClassifier",
    "EncodedNames",
    "FeatureClassifier",
    "ImageClassifier",
    "LearnedWordsHead",
    "OpenClipForImageClassification",
    "PseudoWords",
    "TextHead",
    "check_class_names",
    "classifier_of",
    "demo_backbone",
    "enable_gradient_checkpointing",
    "encode_names",
    "load_backbone",
    "load_processor",
    "load_tokenizer",
    "load_two_towers",
    "reads_texts",
    "texts_of",
]
