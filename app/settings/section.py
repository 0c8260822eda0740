"""What every section of the settings has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Immutable, and no key that is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True)
