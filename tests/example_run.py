"""A run folder as training leaves it, made in a moment: what the tests of the Hub push, load and export."""

from __future__ import annotations

import tiny
import torch
from example_results import CLASSES, SETTINGS, example_results, sessions_of
from peft import get_peft_model
from safetensors.torch import save_file
from transformers import ViTImageProcessor

from hf_cl.hub.card import ModelCardInput
from hf_cl.hub.published import PLOTS, write_run_card

TOKEN = "hf_loopback"


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def make_run(folder, base_name="me/base", sessions=3, seed=0, **card):
    """A run folder as training leaves it: an adapter per session, results, settings, card, plots, log."""
    for k in range(sessions):
        model = tiny.base("vit")
        names = [name for session in CLASSES[: k + 1] for name in session]
        sizes = [len(session) for session in CLASSES[: k + 1]]
        adapted = get_peft_model(model, tiny.ADAPTERS["ONE_PROMPT"](class_names=names, classes_per_session=sizes))
        generator = torch.Generator().manual_seed(seed + k)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
        adapted.peft_config["default"].base_model_name_or_path = base_name
        session = folder / "adapters" / f"session-{k}"
        adapted.save_pretrained(session, save_embedding_layers=False)
        (session / "README.md").unlink()
        # not the base's values: whoever uses the base's processor gets other scores
        ViTImageProcessor(size={"height": tiny.SIDE, "width": tiny.SIDE}, image_mean=[0.1] * 3, image_std=[0.9] * 3).save_pretrained(
            session
        )
    results = example_results()
    if sessions < 3:
        names = ("accuracy_matrix", "accuracy_matrix_task_aware", "accuracy_matrix_within", "class_accuracy_matrix", "test_counts")
        cut = {name: getattr(results, name)[:sessions] for name in names}
        results = example_results(**cut, sessions=sessions_of(CLASSES[:sessions]), times=None)
    results.save(folder / "results.json")
    (folder / "config.yaml").write_text("dataset: /home/someone/animals\nbatch_size: 128\n")
    (folder / "log.jsonl").write_text('{"path": "/home/someone"}\n')
    (folder / "checkpoints").mkdir(exist_ok=True)
    save_file({"x": torch.zeros(1)}, folder / "checkpoints" / "state.safetensors")
    for name in PLOTS:
        (folder / name).write_bytes(b"\x89PNG " + name.encode())
    facts = {
        "results": results,
        "settings": SETTINGS,
        "base_model": base_name,
        "adapter": str(folder / "adapters" / f"session-{sessions - 1}"),
        "method": "OVOR",
        "adapter_type": "ONE_PROMPT",
        "citation": "@a{b}",
        "license": "apache-2.0",
    }
    write_run_card(folder, ModelCardInput(**facts | card))
    return folder
