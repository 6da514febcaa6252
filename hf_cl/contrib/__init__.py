"""What was tried and is not recommended: a file each, on public contracts alone, with its numbers in docs/contrib.md.

Nothing here is registered until it is named: `--import hf_cl.contrib.noise_windows` on the command line, or the same import in Python.
"""
