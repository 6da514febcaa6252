"""The code of a model card. Every block runs on its own as it stands, once the picture's path is a real one."""

from __future__ import annotations

import json
import shlex
from pathlib import PurePath

from hf_cl.backbones.loading import DEMO, SHIPPED
from hf_cl.hub.access import HUB, endpoint
from hf_cl.results.display import display_name, without_folders

PICTURE = "path/to/image.jpg"


def other_endpoint() -> str | None:
    """The Hub in use where it is not huggingface.co: whoever reads the card has to name it."""
    return None if endpoint() == HUB else endpoint()


CLASSIFIER, TWO_TOWERS = "AutoModelForImageClassification", "AutoModelForZeroShotImageClassification"
"""What loads a base in transformers: with a classifier, or with an image and a text tower."""


def through_peft(base_model: str, base_revision: str | None, adapter: str, num_classes: int, auto: str = CLASSIFIER) -> str:
    """The adapter on its base, and one image."""
    return f"""import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoImageProcessor, {auto}

import hf_cl  # tells peft about the adapter type
{_base(base_model, base_revision, auto)}
model = PeftModel.from_pretrained(base, {_literal(adapter)}).eval()
processor = AutoImageProcessor.from_pretrained({_literal(adapter)})

image = Image.open("{PICTURE}").convert("RGB")
with torch.no_grad():
    logits = model(**processor(images=image, return_tensors="pt")).logits  # [1, {num_classes}]
print(model.config.id2label[logits.argmax(-1).item()])"""


def as_pipeline(base_model: str, base_revision: str | None, adapter: str) -> str:
    """transformers' pipeline with the adapter's own image processor."""
    return f"""from peft import PeftModel
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

import hf_cl  # tells peft about the adapter type
{_base(base_model, base_revision)}
model = PeftModel.from_pretrained(base, {_literal(adapter)})
processor = AutoImageProcessor.from_pretrained({_literal(adapter)})
classify = pipeline("image-classification", model=model.get_base_model(), image_processor=processor)
print(classify("{PICTURE}"))"""


def through_hf_cl(adapter: str) -> str:
    """hf_cl finds the base itself."""
    return f'import hf_cl\n\nprint(hf_cl.load({_literal(adapter)}).predict(["{PICTURE}"])[0])'


def in_the_shell(adapter: str) -> str:
    """The same without Python."""
    return f"hf-cl predict {shlex.quote(display_name(without_folders(adapter)))} {PICTURE}"


def earlier_session(base_model: str, base_revision: str | None, adapter: str, session: int, auto: str = CLASSIFIER) -> str:
    """A revision through peft, on a base of its own: peft grows no second adapter of another size on a base that has one."""
    return f"""from peft import PeftModel
from transformers import {auto}

import hf_cl  # tells peft about the adapter type
{_base(base_model, base_revision, auto)}
model = PeftModel.from_pretrained(base, {_literal(adapter)}, revision="session-{session}").eval()
print(model.config.id2label)"""


def earlier_session_through_hf_cl(adapter: str, session: int) -> str:
    """A revision through hf_cl."""
    return f'import hf_cl\n\nprint(hf_cl.load({_literal(adapter)}, revision="session-{session}").class_names)'


def sibling(adapter: str, session: int) -> str:
    """The folder of another session beside that of a run's last one."""
    return str(PurePath(adapter).with_name(f"session-{session}"))


def _base(name: str, revision: str | None, auto: str = CLASSIFIER) -> str:
    if name in SHIPPED:
        which = "" if name == DEMO else _literal(name)
        return f"from hf_cl.backbones import demo_backbone\n\nbase = {auto}.from_pretrained(demo_backbone({which}))"
    at = f", revision={json.dumps(revision)}" if revision else ""
    return f"\nbase = {auto}.from_pretrained({_literal(name)}{at})"


def _literal(name: str) -> str:
    return json.dumps(without_folders(name))
