"""Configuration of the peft type SESSION_NORM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from peft import PeftConfig, PeftType

from hf_cl.adapters.config import MAX_ROWS
from hf_cl.adapters.field_types import brief, check_count
from hf_cl.adapters.weight_config import WeightConfig
from hf_cl.errors import first_ten


@dataclass
class SessionNormConfig(WeightConfig, PeftConfig):
    """Trains scale and shift of LayerNorms: one pair for all images, one per domain, or a smooth function of a number of the domain.

    The function is that of the time-dependent norms of Liu et al., "Alleviating Distortion in Image Generation via Multi-Resolution
    Diffusion Models" (NeurIPS 2024, arXiv 2406.09416), with a domain's number in the place of the time of a diffusion. With one pair this
    is LayerNorm tuning.

    Raises ValueError for an unknown conditioning; for `interpolate` without numbers of at least two values, or without that of a domain;
    for numbers with another conditioning; for domains that are not distinct non-empty names; and for what `HeadedConfig` refuses.
    """

    conditioning: Literal["none", "table", "interpolate"] = field(
        default="none",
        metadata={
            "help": "none: one scale and shift per norm, for all images; table: own ones for each domain; interpolate: a sigmoid between "
            "two, by the number of the domain in `codes`"
        },
    )
    codes: dict[str, float] | None = field(
        default=None, metadata={"help": "interpolate: a number for each domain that may come, such as {night: 0, dusk: 6, noon: 12}"}
    )
    domains: list[str] | None = field(
        default=None, metadata={"help": "names of the domains, as `ctx.batch['domain']` numbers them; filled in as they arrive"}
    )
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "LayerNorms to adapt, as names or a regex; None: those of the vision tower that its features see"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["SESSION_NORM"]
        self.check_shared_fields()
        if self.conditioning not in ("none", "table", "interpolate"):
            raise ValueError(f"conditioning must be none, table or interpolate, got {self.conditioning!r}.")
        names = self.domains or []
        if len(set(names)) != len(names) or not all(name.strip() for name in names):
            raise ValueError(f"domains must be distinct, non-empty names, got {brief(names)}.")
        check_count("the number of domains", len(names), MAX_ROWS, "more than a table of norms is for")
        if self.conditioning != "interpolate":
            if self.codes is not None:
                raise ValueError(
                    f"codes are the numbers that conditioning: interpolate goes by; {self.conditioning} reads none. Leave them out."
                )
        elif len(set((self.codes or {}).values())) < 2:
            raise ValueError(
                "conditioning: interpolate goes by a number for each domain, of which two at least differ: codes: {night: 0, noon: 12}. "
                f"Got {brief(self.codes)}."
            )
        if names:
            self.check_domains(names)

    def check_domains(self, domain_names: Sequence[str]) -> None:
        """As in `HeadedConfig`: with a conditioning each domain needs what its norms are made by."""
        if self.conditioning == "none":
            return
        if not domain_names:
            raise ValueError(
                f"conditioning: {self.conditioning} goes by the domain of an image, and the sessions say none: take --protocol "
                "domain_incremental, name the column that has them (--domain_column style), or say conditioning: none."
            )
        if self.codes is not None and (missing := [name for name in domain_names if name not in self.codes]):
            raise ValueError(f"codes has no number for {first_ten(map(repr, missing))}; it has {first_ten(map(repr, self.codes))}.")

    @property
    def num_domains(self) -> int:
        """Domains that norms are told apart by, at least one."""
        return max(1, len(self.domains or ())) if self.conditioning != "none" else 1

    @property
    def rows(self) -> int:
        """Scales (and shifts) of a norm."""
        return {"none": 1, "interpolate": 2}.get(self.conditioning, self.num_domains)

    def place(self, code: float) -> float:
        """A number on the scale from -2 to 2 that the norms know, its ends being the smallest and the largest of `codes`.

        Raises ValueError for one beyond them.
        """
        known = (self.codes or {}).values()
        low, high = min(known), max(known)
        if not low <= code <= high:
            raise ValueError(
                f"{code:g} lies outside of the codes that were trained, {low:g} to {high:g}, where nothing is known of the norms."
            )
        return 4 * (code - low) / (high - low) - 2
