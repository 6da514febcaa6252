"""The short form of the fault campaign: `python tests/faults/campaign.py` is the long one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from five_runs import METHODS

sys.path.insert(0, str(Path(__file__).parent))

from campaign import Campaign


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    return Campaign(tmp_path_factory.mktemp("faults"), seed=1)


@pytest.mark.parametrize("name", METHODS)
def test_kills_at_random_moments(campaign, name):
    campaign.kills(name, 2)
    assert not campaign.wrong


@pytest.mark.parametrize("fault", ["two_runs", "inside", "disks"])
def test_other_faults(campaign, fault):
    getattr(campaign, fault)("ovor")
    assert not campaign.wrong
