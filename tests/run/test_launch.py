"""Whose error it is: a user's mistake is a line, a bug in a part of the user's own has its traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from processes import run

ROOT = Path(__file__).parents[2]


def test_a_bug_in_a_loss_of_ones_own_shows_where(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        from hf_cl.methods import OvorSettings
        from hf_cl.run import launch
        from hf_cl.checkpoints.tensors import first_not_finite

        class Own(list):
            def __iter__(self):
                raise ValueError("shapes do not fit")

        def main(settings):
            if settings.epochs == 1:
                raise ValueError("a mistake of the script itself")
            first_not_finite(Own())

        sys.exit(launch(main, OvorSettings, "ovor"))
        """)
    )
    own = run(script)
    assert own.status == 2 and "in __iter__" in own.output and own.output.endswith("hf-cl: shapes do not fit\n")
    mistake = run(script, "--epochs=1")
    assert mistake.status == 2 and mistake.output == "hf-cl: a mistake of the script itself\n"


@pytest.mark.distributed
@pytest.mark.parametrize("machines", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_launch_that_starts_one_process_instead_of_several_is_an_error(machines, tmp_path):
    """`accelerate launch --cpu --num_processes 2` starts one, and says nothing."""
    meeting = ["--num_machines", "2", "--machine_rank", "0", "--main_process_ip", "127.0.0.1", "--main_process_port", "29999"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", *(meeting if machines == 2 else [])]
    recipe = [str(ROOT / "recipes" / "ovor.py"), "--config", "demo", "--output_dir", str(tmp_path / "run")]
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run([*launcher, *recipe], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode != 0 and "asked for several processes or machines, and started one here" in done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()
