"""peft's own tests, run on hf_cl's adapter types: `python -m conformance` (docs/conformance.md)."""
