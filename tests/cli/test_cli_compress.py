"""`hf-cl compress`: the folder it writes is a base, and nothing is overwritten."""

from __future__ import annotations

from typer.testing import CliRunner

from hf_cl.adapters.low_rank_linear import ranks
from hf_cl.backbones import load_backbone, load_processor
from hf_cl.cli import app


def test_a_compressed_base_is_one_to_train_on(tmp_path):
    folder = tmp_path / "small"
    done = CliRunner().invoke(app, ["compress", "demo", "--ratio", "3", "--output_dir", str(folder)])
    assert done.exit_code == 0, done.output
    assert "942,144 of 2,713,920 parameters (35%)" in done.output and "--backbone" in done.output
    assert set(ranks(load_backbone(str(folder))).values()) == {32, 51} and load_processor(str(folder)).size
    again = CliRunner().invoke(app, ["compress", "demo", "--output_dir", str(folder)])
    assert again.exit_code != 0 and "holds something already" in again.output
    wrong = CliRunner().invoke(app, ["compress", "demo", "--ratio", "0.5", "--output_dir", str(tmp_path / "no")])
    assert wrong.exit_code != 0 and "ratio must be above 1" in wrong.output and not (tmp_path / "no").exists()
