"""Grant documents, and moments around them, for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from app.policy.grant import Grant, grant_from_document
from app.policy.grant_index import GrantIndex
from app.policy.mesh import MeshConfig
from tests.support.policies import HARDENED, document

BEGIN = datetime(2030, 1, 31, 12, tzinfo=UTC)
END = BEGIN + timedelta(hours=2)
DURING = BEGIN + timedelta(hours=1)
SERVICE_REF = {"kind": "Service", "group": "", "name": "orders"}


def grant(name: str = "g", namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    """A Grant document: the web frontend may do everything at the workloads `app: orders`, from `BEGIN` to `END`."""
    where: dict[str, Any] = (
        {} if "targetRefs" in spec or "selector" in spec else {"selector": {"matchLabels": {"app": "orders"}}}
    )
    return {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "Grant",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "subjects": [{"serviceAccounts": ["shop/web"]}],
            "notBefore": "2030-01-31T12:00:00Z",
            "expiresAt": "2030-01-31T14:00:00Z",
            "reason": "repair of order 7",
            **where,
            **spec,
        },
    }


def read(value: dict[str, Any]) -> Grant:
    """The grant in a document."""
    return grant_from_document(document(value))


def index(*values: dict[str, Any], mesh: MeshConfig = HARDENED) -> GrantIndex:
    """An index of these grants."""
    return GrantIndex.empty(mesh).replaced({document(value).key: read(value) for value in values}, mesh)
