"""A fault campaign: kill runs of all five methods at random moments, break their disks and files, and count what survives.

python tests/faults/campaign.py --kills 200 --seed 0      exit status 1 if anything came out otherwise than it should
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "training")]

from five_runs import METHODS, outcome
from processes import server
from runs import CRASH, MISTAKE, said, start


class Campaign:
    """Counts by name; a fault that did not come out as it should is kept with its reason."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.random, self.context = folder, random.Random(seed), server()
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._whole: dict[str, tuple[str, float]] = {}
        self._number = 0

    def fresh(self, name: str) -> Path:
        self._number += 1
        return self.folder / f"{name}-{self._number}"

    def whole(self, name: str) -> tuple[str, float]:
        """Outcome and seconds of a run that nothing disturbs."""
        if name not in self._whole:
            folder, started = self.fresh(name), time.perf_counter()
            if self.finish(name, folder) != 0:
                raise RuntimeError(f"{name} fails undisturbed: {said(folder)}")
            self._whole[name] = outcome(folder), time.perf_counter() - started
        return self._whole[name]

    def finish(self, name: str, folder: Path, fault: str | None = None, **settings: Any) -> int:
        process = start(self.context, name, folder, fault, **settings)
        process.join(300)
        return process.exitcode

    def check(self, kind: str, name: str, right: bool, why: str) -> None:
        self.counts[f"{kind}: {'as it should' if right else 'WRONG'}"] += 1
        if not right:
            self.wrong.append(f"{kind}, {name}: {why[-800:]}")

    def check_resumes(self, kind: str, name: str, folder: Path) -> None:
        code = self.finish(name, folder)
        right = code == 0 and outcome(folder) == self.whole(name)[0]
        self.check(kind, name, right, said(folder) if code else "other bytes than the undisturbed run")

    # Kills
    def kills(self, name: str, count: int) -> None:
        """SIGKILL at `count` random moments; a killed run goes on, perhaps to be killed again, and its end is compared."""
        expected, seconds = self.whole(name)
        left = count
        while left > 0:
            folder = self.fresh(name)
            while True:
                process = start(self.context, name, folder)
                process.join(self.random.uniform(0.0, seconds) if left > 0 else 300)
                if process.exitcode is not None:
                    break
                process.kill()
                process.join()
                self.counts[self._moment(folder)] += 1
                left -= 1
            right = process.exitcode == 0 and outcome(folder) == expected
            self.check("run that was killed ends with equal bytes", name, right, said(folder))

    @staticmethod
    def _moment(folder: Path) -> str:
        """What the kill hit, as far as the folder tells."""
        if any(folder.glob("checkpoints/.writing-*")):
            return "killed while a checkpoint was written"
        if any(folder.glob("adapters/.writing-*")):
            return "killed while an adapter was written"
        if not any(folder.glob("checkpoints/step-*")):
            return "killed before the first checkpoint"
        return "killed between checkpoints"

    # Other faults
    def torn_checkpoints(self, name: str) -> None:
        """The newest checkpoint cut to every class of length, or with one bit turned: the older one is used."""
        suffixes = (".json", ".safetensors", ".sha256.json")
        for cut in ("nothing", "one byte", "half", "all but one byte", "one bit turned", "missing"):
            folder = self.fresh(name)
            process = start(self.context, name, folder)
            while len(list(folder.glob("checkpoints/step-*"))) < 2 and process.is_alive():
                time.sleep(0.02)
            process.kill()
            process.join()
            newest = max(folder.glob("checkpoints/step-*"))
            _damage(newest / f"rank-000-of-001{self.random.choice(suffixes)}", cut)
            self.check_resumes("torn checkpoint", name, folder)

    def two_runs(self, name: str) -> None:
        """The second run into a folder is refused, the first one is not disturbed."""
        folder = self.fresh(name)
        first = start(self.context, name, folder)
        while not (folder / "config.yaml").exists():
            time.sleep(0.02)
        second = folder.with_name(folder.name + "-second")
        second.symlink_to(folder)
        code = self.finish(name, second)
        self.check("second run into a folder", name, code == MISTAKE and "Another run is writing" in said(second), said(second))
        first.join(300)
        self.check("first run beside it", name, first.exitcode == 0 and outcome(folder) == self.whole(name)[0], said(folder))

    def inside(self, name: str) -> None:
        """Faults inside the run: the message names them, and the run goes on once they are gone."""
        for fault, code, words in (
            ("broken probe", CRASH, "a mistake in somebody's probe"),
            ("not a number", MISTAKE, "not finite at step"),
            ("vanishing images", MISTAKE, "photos/17.png"),
        ):
            folder = self.fresh(name)
            found = self.finish(name, folder, fault, logging_steps=1)
            self.check(fault, name, found == code and words in said(folder), f"exit {found}: {said(folder)}")
            self.check_resumes(f"{fault}, then resumed", name, folder)

    def disks(self, name: str) -> None:
        """A disk that is full, and one that cannot be written; both are mounted in memory, which needs rights."""
        folder = self.fresh(name)
        folder.mkdir()
        if _mount(folder, "size=100k") != 0:
            self.counts["disks: skipped, no right to mount"] += 1
            return
        try:
            code = self.finish(name, folder)
            self.check("full disk", name, code == MISTAKE and "space" in said(folder), f"exit {code}: {said(folder)}")
            _mount(folder, "remount,size=64m")
            self.check_resumes("full disk, then resumed", name, folder)
            _mount(folder, "remount,ro")
            code = self.finish(name, folder)
            self.check("read-only folder", name, code == MISTAKE and "Cannot write to" in said(folder), said(folder))
        finally:
            subprocess.run(["umount", str(folder)], check=True)


def _damage(path: Path, cut: str) -> None:
    content = path.read_bytes()
    if cut == "missing":
        path.unlink()
    elif cut == "one bit turned":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        path.write_bytes(content[: {"nothing": 0, "one byte": 1, "half": len(content) // 2, "all but one byte": -1}[cut]])


def _mount(folder: Path, options: str) -> int:
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    campaign = Campaign(folder, arguments.seed)
    for number, name in enumerate(METHODS):
        share = arguments.kills // len(METHODS) + (number < arguments.kills % len(METHODS))
        for fault in (campaign.torn_checkpoints, campaign.two_runs, campaign.inside, campaign.disks):
            fault(name)
        campaign.kills(name, share)
        print(f"{name}: done; a whole run takes {campaign.whole(name)[1]:.1f} s", flush=True)
    for kind, count in sorted(campaign.counts.items()):
        print(f"{count:5d}  {kind}")
    print("\n".join(campaign.wrong))
    shutil.rmtree(folder)
    return 1 if campaign.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
