"""Whose error it is: a user's mistake is a line, a bug in a part of the user's own has its traceback."""

from __future__ import annotations

import subprocess
import sys
import textwrap


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
    own = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert own.returncode == 2 and "in __iter__" in own.stderr and own.stderr.endswith("hf-cl: shapes do not fit\n")
    mistake = subprocess.run([sys.executable, str(script), "--epochs=1"], capture_output=True, text=True, check=False)
    assert mistake.returncode == 2 and mistake.stderr == "hf-cl: a mistake of the script itself\n"
