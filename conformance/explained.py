"""Failures that are right: what peft's test takes for granted does not hold for the type, by its design."""

_ONE_HEAD = "one head is active at a time (peft's own modules_to_save refuses two as well; peft's test skips those cases by their settings)"
_ONE_PROMPT_SET = "two CPE_CLIP adapters are refused together: each brings prompts of its own"
_ONE_COPY = "adapters that both hold a copy of one module are refused together: copies replace weights and do not add up"
_ONE_PAIR = "adapters that hold factors of one module are refused together: factors replace a weight and do not add up"
_RESTING = "copies that have never trained equal the base; they are in memory, ready to be unfrozen, and no part of the file"
_SLOW_FACTOR = (
    "the test asks that every tensor moves by 1e-4 in three steps; with everything unfrozen, LoRA's A of the last block's queries, whose "
    "gradient is scaled by the small B, moves by 2e-5 on this model"
)
_DIVERGES = (
    "the test trains at a rate of 0.5, which diverges once a CLIP tower's own weights train, and NaN equals nothing; peft lowers the rate "
    "for its own types where this happens"
)
_NO_BIAS = "bias other than none is refused by the config: unfreeze_from says what else trains; peft's test expects the field to be missing"
_PICKLE = "the test saves the adapter as a pickle, which hf_cl does not read: it could run code"
_KEYS = "the test trains by the logits alone; keys of a pool choose by rank, which has no gradient, and learn by a loss of their own"
_BITS = "the test compares the trained model's whole state with the loaded one's: scores there, bits here, by design"

EXPLAINED: dict[str, str] = {
    "test_active_adapter */*/head": _ONE_HEAD,
    "test_save_pretrained_pickle */*/*": _PICKLE,
    "test_training_custom_models PROMPT_POOL/*/l2p": _KEYS,
    "test_training_custom_models PROMPT_POOL/*/dual": _KEYS,
    "test_training_custom_models PROMPT_POOL/*/mvp": _KEYS,
    "test_only_params_are_updated PROMPT_POOL/*/l2p": _KEYS,
    "test_only_params_are_updated PROMPT_POOL/*/dual": _KEYS,
    "test_only_params_are_updated PROMPT_POOL/*/mvp": _KEYS,
    "test_save_pretrained MASK_TUNING/*": _BITS,
    "test_save_pretrained_selected_adapters MASK_TUNING/*": _BITS,
    "test_parameters_after_loading_model MASK_TUNING/*": _BITS,
    "test_active_adapter CPE_CLIP/clip_vision/default": _ONE_PROMPT_SET,
    "test_active_adapter CPE_CLIP/clip_vision/replace": _ONE_PROMPT_SET,
    "test_active_adapter ASYNC_LORA/*unfrozen": _ONE_COPY,
    "test_active_adapter LOW_RANK/*": _ONE_PAIR,
    "test_parameters_after_loading_model LOW_RANK/clip_vision/default": _DIVERGES,
    "test_parameters_after_loading_model LOW_RANK/clip_vision/modules to save": _DIVERGES,
    "test_save_pretrained ASYNC_LORA/*/resting copies": _RESTING,
    "test_parameters_after_loading_model ASYNC_LORA/*/resting copies": _RESTING,
    "test_only_params_are_updated ASYNC_LORA/vit/all unfrozen": _SLOW_FACTOR,
    "test_parameters_after_loading_model ASYNC_LORA/clip_vision/*unfrozen": _DIVERGES,
    "test_adding_multiple_adapters_with_bias_raises ASYNC_LORA/*": _NO_BIAS,
}
"""`test name TYPE/family/case` (with `*`) -> why. One that passes all the same is an error of the run."""
