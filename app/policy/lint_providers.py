"""Doubts about CUSTOM policies and Providers that only show when both are looked at."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from app.policy.authorization_policy import Action
from app.policy.compile import CompiledPolicy
from app.policy.finding import Finding, warning
from app.policy.mesh import MeshConfig


def provider_doubts(policy: CompiledPolicy, providers: Collection[str], mesh: MeshConfig) -> Iterator[Finding]:
    """A CUSTOM policy that names neither us nor any Provider document; `providers` are the names of those.

    A warning and no error: documents come one after the other, and until the Provider comes the policy denies.
    """
    name = policy.spec.provider
    if policy.action is not Action.CUSTOM or not name or name in mesh.own_providers or name in providers:
        return
    yield warning(
        "/spec/provider/name",
        f"no Provider document is named {name}, so every request that this policy matches is denied: apply one, or put "
        f"{name} into the Mesh's ownProviders if it is how proxies reach Gatehouse",
    )


def own_provider_doubts(name: str, mesh: MeshConfig) -> Iterator[Finding]:
    """A Provider document whose name is ours."""
    if name in mesh.own_providers:
        yield warning(
            "/metadata/name",
            f"{name} is one of the Mesh's ownProviders, by which requests come to Gatehouse: it is never asked",
        )
