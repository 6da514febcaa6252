"""`hf-cl --help` shows its text without waiting for torch."""

from __future__ import annotations

import json
import subprocess
import sys

SHOW = """
import json, sys
sys.argv = ["hf-cl", *sys.argv[1:]]
from hf_cl_command import main
try:
    main()
except SystemExit as end:
    code = end.code
sys.stderr.write(json.dumps({"code": code, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""
HEAVY = {"torch", "transformers", "peft", "accelerate", "datasets", "numpy", "sklearn", "matplotlib", "PIL"}


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)


def test_help_imports_no_library_that_takes_seconds():
    done = run(SHOW, "--help")
    seen = json.loads(done.stderr)
    assert seen["code"] == 0 and "train" in done.stdout
    assert not HEAVY & set(seen["modules"])


def test_what_the_command_left_out_comes_when_it_is_asked_for():
    code = "import hf_cl_command, sys, hf_cl; early = 'peft' in sys.modules; hf_cl.OnePromptConfig; from peft import PeftType"
    assert run(f"{code}; print(early, PeftType['ONE_PROMPT'].value)").stdout.split() == ["False", "ONE_PROMPT"]
