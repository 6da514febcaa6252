"""The card of an export that is not all that the adapter was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from hf_cl.hub.classifier import Classifier
from hf_cl.hub.markdown import escape

_LOADING = {
    "small": """```python
import hf_cl

classifier = hf_cl.load("{folder}")
```

It is an adapter as any other: after `import hf_cl`, peft's `PeftModel.from_pretrained` and transformers' `load_adapter` load it too.""",
    "merged": """```python
from transformers import AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained("{folder}")
```""",
}


def write_export_card(folder: Path, form: str, adapter: str, classifier: Classifier, told: str) -> None:
    """Write README.md: what the export was made of, what it costs, how it is loaded."""
    config: Any = classifier.model.peft_config["default"]
    library = "peft" if form == "small" else "transformers"
    data = ModelCardData(library_name=library, base_model=config.base_model_name_or_path, tags=["hf_cl", "image-classification"])
    text = f"""# {escape(Path(adapter).name)}, {form}

Made by `hf-cl export --form {form}` from the adapter {escape(adapter)}.

{told}

{_LOADING[form].format(folder=folder.name)}

Classes: {escape(", ".join(classifier.class_names), 10_000)}.
"""
    (folder / "README.md").write_text(str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}", ignore_metadata_errors=True)))
