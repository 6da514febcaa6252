"""A data set of the Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_cl.errors import DataError

if TYPE_CHECKING:
    import datasets

_ADDRESS = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?)(:(?P<config>[^@]+))?(@(?P<revision>.+))?")


@dataclass(frozen=True)
class HubAddress:
    """`owner/name`, with `:config` where the data set has several and `@revision` to pin a commit, tag or branch."""

    id: str
    config: str | None
    revision: str | None

    @classmethod
    def parse(cls, text: str) -> HubAddress | None:
        """None where `text` cannot be a Hub id."""
        match = _ADDRESS.fullmatch(text)
        return cls(match["id"], match["config"], match["revision"]) if match else None


def read_hub(address: HubAddress) -> dict[str, datasets.Dataset]:
    """Split name -> table. Raises DataError, with what to do, where it cannot be had."""
    import datasets  # noqa: PLC0415 (what lies here does not wait for it)
    from datasets.exceptions import DatasetsError  # noqa: PLC0415

    asked = f"{address.id!r}" + (f", config {address.config!r}" if address.config else "")
    asked += f", revision {address.revision!r}" if address.revision else ""
    try:
        loaded = datasets.load_dataset(address.id, name=address.config, revision=address.revision)
    except (DatasetsError, OSError, ValueError) as error:
        cause = " ".join(str(error).split()).rstrip(".")
        raise DataError(
            f"Data set {asked}: no folder or file of that name here, and the Hub did not give it: {cause}.\n"
            "Offline (HF_HUB_OFFLINE=1) only data sets loaded before are there; private and gated ones need HF_TOKEN; "
            "one of several configs is chosen with 'id:config'."
        ) from error
    return {str(split): table for split, table in loaded.items()}
