"""From a document to a compiled policy (skeleton)."""

from __future__ import annotations

from app.policy.document import Document
from app.policy.mesh import MeshConfig


class CompiledPolicy:
    """One policy, ready to be taken into a rule table."""


def compile_policy(document: Document, mesh: MeshConfig) -> CompiledPolicy:
    """Compile an AuthorizationPolicy document.

    Raises:
        AppError: `INVALID` when it cannot be honoured.
    """
    raise NotImplementedError
