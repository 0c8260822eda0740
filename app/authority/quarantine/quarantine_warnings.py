"""What a quarantine would do that its author may not have meant: stop Gatehouse's own doors, or a whole mesh."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from app.ca.impersonation import DEFAULT_TRUSTED_ACCOUNTS
from app.ca.serving_names import AUTHORITY_ACCOUNT, GATEHOUSE_NAMESPACE, WORKER_ACCOUNT
from app.errors import FieldError
from app.policy.quarantine import Quarantine

_OWN = {
    AUTHORITY_ACCOUNT: "this is the authority itself: its listeners go on and get new certificates, and only Checks of "
    "requests that it sends are denied; to stop issuing, stop it, or taint its authorities",
    WORKER_ACCOUNT: "these are all decision workers: none gets a new certificate, so port 9193 of each stops "
    "answering when its certificate ends",
}


def quarantine_warnings(
    quarantine: Quarantine, *, node_accounts: AbstractSet[str] = DEFAULT_TRUSTED_ACCOUNTS
) -> tuple[FieldError, ...]:
    """What the author should know; `node_accounts` are those of node proxies, NAMESPACE/NAME."""
    return tuple(_warnings(quarantine, node_accounts))


def _warnings(quarantine: Quarantine, node_accounts: AbstractSet[str]) -> Iterator[FieldError]:
    pointer = "/spec/identity" if quarantine.identity else "/spec/serviceAccount"
    for account, message in _OWN.items():
        if _is(quarantine, f"{GATEHOUSE_NAMESPACE}/{account}"):
            yield FieldError(pointer, message)
    for account in sorted(node_accounts):
        if _is(quarantine, account):
            yield FieldError(
                pointer,
                f"{account} is the account of every node proxy: nothing is issued for any workload that they ask for, "
                "and the mesh ends with its certificates; to cut off one node, quarantine the node",
            )


def _is(quarantine: Quarantine, account: str) -> bool:
    namespace, _, name = account.partition("/")
    path = f"/ns/{namespace}/sa/{name}"
    return quarantine.account == path or (bool(quarantine.identity) and quarantine.identity.endswith(path))
