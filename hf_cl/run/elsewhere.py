"""What settings and methods are called in other toolboxes, for whoever comes from there: mammoth, Avalanche, PyCIL and LAMDA-PILOT, and the
arguments of `transformers.Trainer`."""

from __future__ import annotations

from collections.abc import Collection

from hf_cl.hints import nearest
from hf_cl.run.configs import CONFIGS

_SESSIONS = "--num_base_classes and --classes_per_session: sessions are said by the number of their classes"
_MEMORY = "--memory '{type: exemplars, total: 200}', or per_class: 20"
SETTINGS = {
    "lr": "--learning_rate",
    **dict.fromkeys(("n_epochs", "num_epochs", "num_train_epochs", "train_epochs"), "--epochs"),
    **dict.fromkeys(("train_mb_size", "per_device_train_batch_size"), "--batch_size, of all processes together"),
    **dict.fromkeys(("eval_mb_size", "per_device_eval_batch_size"), "--eval_batch_size"),
    **dict.fromkeys(("buffer_size", "mem_size", "memory_size"), _MEMORY),
    "memory_per_class": "--memory '{type: exemplars, per_class: 20}'",
    **dict.fromkeys(("minibatch_size", "batch_size_mem"), "--memory '{type: exemplars, total: 200, replay: 16}'"),
    **dict.fromkeys(("n_tasks", "num_tasks", "nb_tasks", "n_experiences", "num_sessions"), _SESSIONS),
    **dict.fromkeys(("init_cls", "nc_first_task"), "--num_base_classes"),
    "increment": "--classes_per_session",
    "scenario": "--protocol",
    **dict.fromkeys(("model", "model_name_or_path", "backbone_type", "convnet_type"), "--backbone, a Hub id or folder"),
    **dict.fromkeys(("train_dir", "data_dir", "dataset_name"), "--dataset, a folder or Hub id"),
    **dict.fromkeys(("fp16", "bf16"), "--mixed_precision fp16 or bf16"),
    "device": "--cpu where a GPU is to be left alone, and CUDA_VISIBLE_DEVICES",
    "resume_from_checkpoint": "--resume auto",
    "save_steps": "--checkpoint_steps",
    "dataloader_num_workers": "--num_workers",
}
"""Name elsewhere -> what says it here."""
METHODS = {
    **dict.fromkeys(("derpp", "der++"), "compose --config der_plus_plus"),
    **dict.fromkeys(("replay", "rehearsal"), "compose --config er"),
    "lwf": "compose --config prediction_distillation",
    "simplecil": "nearest_class_mean",
    "ranpac": "frozen --head '{type: ridge, feature_map: relu}'",
    **dict.fromkeys(("finetune", "naive"), "lora"),
}
"""Method elsewhere -> what follows `hf-cl train` here."""


def setting_hint(name: str, known: Collection[str]) -> str:
    """What to say instead of an unknown setting, as a sentence that begins with a blank; nothing where nobody knows."""
    if (said := SETTINGS.get(name)) is not None and _flag_of(said) in known:
        return f" Here it is {said}."
    return nearest(name, known)


def method_hint(name: str, known: Collection[str]) -> str:
    """The same of an unknown method; the name may be one of a config."""
    word = name.lower().replace("-", "_")
    homes = sorted(path.parent.name for path in CONFIGS.glob(f"*/{word}.yaml")) if word.isidentifier() else []
    said = METHODS.get(word) or (f"{homes[0]} --config {word}" if len(homes) == 1 else None)
    return f" Here it is `hf-cl train {said}`." if said else nearest(name, known)


def _flag_of(said: str) -> str:
    return said.split(maxsplit=1)[0].removeprefix("--").rstrip(",")
