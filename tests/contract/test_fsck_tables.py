"""`fsck` of the tables of authorities, bundles and tokens: what the ledger recorded of them is what they say."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from sqlalchemy import text

from app.authority.actor import Role
from app.authority.administer_tokens import TokenAdministration
from app.authority.authorities.authority_ports import AuthorityRole
from app.ca.bundle import TrustBundle
from app.ca.lifecycle import Step
from app.errors import AppError
from app.ledger.entry import EntryKind
from app.limits import Limits
from app.storage.database import Database
from app.storage.fsck import LedgerReport, check_rows
from tests.contract.conftest import make_entry
from tests.contract.test_adopt_parent import files_of
from tests.support.authorities import ALICE, DAY, Kit, make_kit
from tests.support.certificates import TRUST_DOMAIN, make_pki
from tests.support.ledger import LEDGER_KEY


def checked(database: Database, *changes: str) -> LedgerReport:
    """What it says of the database with these changes, which do not stay."""
    with database._engines.writer.connect() as connection:
        transaction = connection.begin()
        try:
            for change in changes:
                connection.execute(text(change))
            return check_rows(connection, LEDGER_KEY.public)
        finally:
            transaction.rollback()


async def lived(database: Database, tmp_path: Path) -> Kit:
    """A Gatehouse that changed its root, lost one of a peer to time, adopted files, and has two tokens."""
    kit = await make_kit(database).open()
    (old_root,) = [row.id for row in (await kit.rows()).values() if row.role == "root"]
    peer = make_pki(root_lifetime=10 * DAY).root
    await kit.peers.adopt("east", TrustBundle.of(TRUST_DOMAIN, (peer,)), actor="system")
    _, issuing = await kit.rotate(AuthorityRole.ROOT)
    kit.clock.advance(11 * DAY)
    await kit.authorities.refresh()
    await kit.do(Step.ACTIVATE, issuing)
    kit.clock.advance(DAY)
    await kit.authorities.refresh()
    await kit.do(Step.REMOVE, old_root)
    await kit.parent.adopt_parent(files_of(make_pki(now=kit.clock.now()), tmp_path), actor="files")
    tokens = TokenAdministration(database, clock=kit.clock, limits=Limits())
    first = await tokens.create(ALICE, name="first", role=Role.ADMIN)
    await tokens.create(ALICE, name="second", role=Role.WORKER, expires_at=kit.clock.now() + DAY)
    await tokens.revoke(ALICE, first.token.id)
    return kit


ROOT, LEAF = "role = 'root' AND state = 'active'", "role = 'issuing' AND state = 'active'"
TAMPERED = [
    (f"UPDATE authorities SET state = 'tainted' WHERE {LEAF}", "another state of"),
    ("UPDATE authorities SET role = 'peer' WHERE role = 'root'", "another role of"),
    (f"UPDATE authorities SET source = 'peer:east' WHERE {ROOT}", "another source of"),
    ("UPDATE authorities SET state_since = state_since - 1 WHERE state = 'retired'", "another state_since of"),
    (f"UPDATE authorities SET created_at = created_at - 1 WHERE {ROOT}", "another created_at of"),
    ("UPDATE authorities SET root_id = 'x' WHERE role = 'issuing'", "another root_id of"),
    (
        f"UPDATE authorities SET certificate_pem = (SELECT certificate_pem FROM authorities WHERE {LEAF}) WHERE {ROOT}",
        "another certificate_pem of",
    ),
    (
        f"UPDATE authorities SET chain_pem = (SELECT certificate_pem FROM authorities WHERE {ROOT}) WHERE {LEAF}",
        "",  # the root once more is what a parent may send
    ),
    (
        (
            "UPDATE authorities SET chain_pem = (SELECT MIN(certificate_pem) FROM authorities WHERE role = 'peer') "
            f"WHERE {LEAF}"
        ),
        "does not lead from its certificate to its root",
    ),
    (f"UPDATE authorities SET chain_pem = 'x' WHERE {LEAF}", "the chain of"),
    ("DELETE FROM authorities WHERE state = 'retired' AND role = 'root'", "the table of authorities misses"),
    (
        (
            "INSERT INTO authorities (id, role, state, certificate_pem, sealed_key, created_at, epoch) "
            f"SELECT 'forged', 'peer', 'active', certificate_pem, sealed_key, 0, 0 FROM authorities WHERE {ROOT}"
        ),
        "the table of authorities has forged, which no entry records",
    ),
    ("DELETE FROM bundles WHERE sequence = 2", "the table of bundles misses number 2"),
    ("DELETE FROM bundles WHERE sequence = (SELECT MAX(sequence) FROM bundles)", "the newest bundle is number"),
    ("UPDATE bundles SET fingerprint = 'aa' WHERE sequence = 2", "the fingerprint of the bundle 2 is not"),
    ("UPDATE bundles SET roots = 'aa ' || roots WHERE sequence = 3", "the bundle 3 has a root that no entry records"),
    ("UPDATE bundles SET roots = '' WHERE sequence = 3", "the bundle 3 has a root that no entry records"),
    ("UPDATE bundles SET since = since - 1 WHERE sequence = 2", "the bundle 2 was given out at a time and for a"),
    ("UPDATE tokens SET name = 'another'", "another name of"),
    ("UPDATE tokens SET role = 'admin'", "another role of"),
    ("UPDATE tokens SET created_by = 'system'", "another created_by of"),
    ("UPDATE tokens SET created_at = created_at - 1", "another created_at of"),
    ("UPDATE tokens SET revoked_at = NULL", "another revoked_at of"),
    ("UPDATE tokens SET revoked_at = 1", "another revoked_at of"),
    ("DELETE FROM tokens WHERE name = 'second'", "the table of tokens misses"),
    (
        (
            "INSERT INTO tokens (id, name, role, secret_hash, created_at, created_by) "
            "SELECT 'forged', 'third', 'admin', secret_hash, created_at, created_by FROM tokens WHERE name = 'second'"
        ),
        "the table of tokens has forged, which no entry records",
    ),
]


async def test_whatever_is_changed_in_what_is_recorded_is_found_and_named(database: Database, tmp_path: Path) -> None:
    """Each column that an entry says, rows that are missing, and rows that nobody made."""
    await lived(database, tmp_path)
    report = checked(database)
    assert (7, 6, 2) == (report.authorities, report.bundles, report.tokens)
    for change, expected in TAMPERED:
        with pytest.raises(AppError, match=expected) if expected else nullcontext():
            checked(database, change)


@pytest.mark.parametrize(
    "shown", [[{"role": "root"}], ["x"], 5, [{"id": "a", "state": "active", "pem": "x"}], [{"id": "a", "state": ""}]]
)
async def test_an_entry_that_is_no_transition_of_ours_is_named(database: Database, shown: object) -> None:
    """Whoever adds one has the log against him, and cannot make the check fall over."""
    await database.append(make_entry("x", EntryKind.AUTHORITY_TRANSITION, authorities=shown, bundle="aa"))
    with pytest.raises(AppError, match=r"row 1|the certificate of a"):
        checked(database)


async def test_a_bundle_that_no_act_and_no_expiry_explains_is_found(database: Database, tmp_path: Path) -> None:
    """Made of roots that are on record, with the fingerprint that belongs to them, as the next number."""
    await lived(database, tmp_path)
    for old, new in ((1, 7), (5, 7)):
        with pytest.raises(AppError, match="the bundle 7 was given out at a time and for a reason that no entry"):
            checked(
                database,
                f"INSERT INTO bundles SELECT {new}, fingerprint, roots, since FROM bundles WHERE sequence = {old}",
                "UPDATE counters SET value = 7 WHERE name = 'bundle'",
            )
