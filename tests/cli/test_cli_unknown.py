"""`hf-cl predict --unknown`: a picture that looks like none of the classes."""

from __future__ import annotations

import json

import numpy as np
from clip_runs import NAMES, write_photos
from PIL import Image

import hf_cl


def test_the_command_says_unknown(call, trained, tmp_path):
    photos, out = write_photos(tmp_path / "photos", NAMES[:4], train=10, test=4), tmp_path / "run"
    words = ["--backbone", "demo", "--num_base_classes", 4, "--cpu", "--augmentation", "none", "--class_order", "natural"]
    done = call("train", "frozen", "--dataset", photos, *words, "--probes", "{novelty: {kind: mahalanobis}}", "--output_dir", out)
    assert done.exit_code == 0, done.stderr
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    known = next((photos / "test" / NAMES[0]).glob("*.png"))
    done = call("predict", out, tmp_path / "noise.png", known, "--unknown")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert "unknown (looks like none of the classes; nearest: " in lines[0] and f": {NAMES[0]} " in lines[1]
    as_lines = call("predict", out, tmp_path / "noise.png", "--unknown", "--format", "jsonl")
    assert json.loads(as_lines.stdout)["unknown"] is True
    classifier = hf_cl.load(out, device="cpu")
    assert [row.unknown for row in classifier.rows([tmp_path / "noise.png", known])] == [None, None]
    assert [row.unknown for row in classifier.rows([tmp_path / "noise.png", known], unknown=True)] == [True, False]

    without = call("predict", trained, known, "--unknown")
    assert without.exit_code == 2 and "no novelty score lies beside the adapter" in without.stderr
