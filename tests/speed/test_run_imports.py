"""What `import hf_cl` and a run before its first step do not import."""

from __future__ import annotations

import json

from processes import interpreter

STEPS = {
    "import hf_cl": {"pydantic", "datasets", "accelerate", "sklearn", "matplotlib", "kornia", "rich", "typer"},
    "from hf_cl.scenarios import open_images; open_images('digits')": {"datasets", "pandas", "pyarrow", "sklearn"},
    "import hf_cl.methods, hf_cl.run.runs": {"matplotlib", "kornia", "datasets", "pandas", "pyarrow"},
}
"""One after the other in one process -> what has not been imported by then."""


def test_libraries_come_when_they_are_needed():
    """Beyond what torch, transformers and peft bring along themselves."""
    code = "import json, sys, torch, transformers, peft; from peft import get_peft_model\n"
    code += "".join(f"{step}\nprint(json.dumps([*sys.modules]))\n" for step in ("", *STEPS))
    done = interpreter("-c", code)
    assert done.status == 0, done.output[-2000:]
    before, *after = ({name.partition(".")[0] for name in json.loads(line)} for line in done.output.splitlines())
    for (step, left_out), there in zip(STEPS.items(), after, strict=True):
        assert not left_out & (there - before), step
