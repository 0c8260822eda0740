"""`fsck` of the authorities and of the bundles that were given out: do the tables say what the ledger recorded?

An entry of a transition says what became of each authority that it touched, and which bundle was published then. A
bundle without an entry is one that time made: a root in it had expired.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from cryptography import x509
from sqlalchemy import Connection, Row, select

from app.authority.authorities.authority_set import certificate_hash, parse_certificates
from app.ca.bundle import fingerprint_of
from app.ca.parent import is_issued_by
from app.errors import AppError
from app.ledger.entry import LedgerEntry
from app.storage.counters import value_of
from app.storage.ledger_head import damaged
from app.storage.tables import authorities, bundles

_COLUMNS = {"role": "role", "state": "state", "source": "source", "root": "root_id", "pem": "certificate_pem"}


@dataclass(slots=True)
class RecordedAuthorities:
    """What all transitions together say; `take` them in the order in which they came on record."""

    columns: dict[str, dict[str, tuple[Any, str]]] = field(default_factory=dict)  # by id and name; with where it stands
    published: list[tuple[str, datetime, str]] = field(default_factory=list)
    names_all_bundles: bool = True  # entries of the first release do not

    def take(self, entry: LedgerEntry, where: str) -> None:
        """One more."""
        for shown in entry.detail.get("authorities", ()):
            said = self.columns.setdefault(str(shown["id"]), {"created_at": (entry.time, where)})
            said.update({_COLUMNS[name]: (value, where) for name, value in shown.items() if name in _COLUMNS})
            if shown.get("before") != shown["state"] or "pem" in shown:
                said["state_since"] = (entry.time, where)
        if "bundle" in entry.detail:
            self.published.append((str(entry.detail["bundle"]), entry.time, where))
        else:
            self.names_all_bundles = False

    def certificates(self) -> Mapping[str, x509.Certificate]:
        """The certificate of each authority that has one, by the authority's id."""
        found = {}
        for authority_id, said in self.columns.items():
            pem, where = said.get("certificate_pem", ("", ""))
            if not pem:
                continue
            parsed = _parsed(str(pem), f"the certificate of {authority_id} in {where}")
            if len(parsed) != 1:
                raise damaged(f"{where} does not name one certificate of {authority_id}")
            found[authority_id] = parsed[0]
        return found


def check_authorities(connection: Connection, recorded: RecordedAuthorities) -> int:
    """Compare the table of authorities; returns how many there are.

    Raises:
        AppError: `FAILED_PRECONDITION` naming what was changed.
    """
    rows = {row.id: row for row in connection.execute(select(authorities).order_by(authorities.c.id))}
    for authority_id in rows.keys() - recorded.columns.keys():
        raise damaged(f"the table of authorities has {authority_id}, which no entry records")
    certificates = recorded.certificates()
    for authority_id, said in recorded.columns.items():
        row = rows.get(authority_id)
        if row is None:
            _, where = said["state"]
            raise damaged(f"the table of authorities misses {authority_id} of {where}")
        for column, (value, where) in said.items():
            if getattr(row, column) != value:
                raise damaged(f"the table of authorities says another {column} of {authority_id} than {where}")
        _check_chain(row, certificates)
    return len(rows)


def _check_chain(row: Row[Any], certificates: Mapping[str, x509.Certificate]) -> None:
    """Certificate and root are on record; what is between them is believed by its signatures."""
    own, root = certificates.get(row.id), certificates.get(row.root_id)
    if own is None or root is None or own == root:
        return
    chain = (own, *_parsed(row.chain_pem, f"the chain of {row.id}"), root)
    if not all(is_issued_by(child, parent) for child, parent in pairwise(chain)):
        raise damaged(f"the chain of the authority {row.id} does not lead from its certificate to its root")


def check_bundles(connection: Connection, recorded: RecordedAuthorities) -> int:
    """Compare the bundles that were given out; returns how many there are.

    Raises:
        AppError: `FAILED_PRECONDITION` naming what was changed.
    """
    roots = {certificate_hash(one): one for one in recorded.certificates().values()}
    rows = connection.execute(select(bundles).order_by(bundles.c.sequence)).all()
    for expected, row in enumerate(rows, 1):
        if row.sequence != expected:
            raise damaged(f"the table of bundles misses number {expected}")
        named = row.roots.split()
        if not named or not roots.keys() >= set(named):
            raise damaged(f"the bundle {expected} has a root that no entry records")
        if row.fingerprint != fingerprint_of({name: roots[name] for name in named}):
            raise damaged(f"the fingerprint of the bundle {expected} is not that of its roots")
    if value_of(connection, "bundle") != len(rows):
        raise damaged(f"the newest bundle is number {len(rows)}, and the counter says another")
    _check_reasons(rows, recorded, roots)
    return len(rows)


def _check_reasons(
    rows: Sequence[Row[Any]], recorded: RecordedAuthorities, roots: Mapping[str, x509.Certificate]
) -> None:
    """Whether each bundle follows from the one before, by an entry or by time, and none that an entry names is gone."""
    at = -1
    for fingerprint, time, where in recorded.published:
        if at >= 0 and rows[at].fingerprint == fingerprint:
            continue
        at += 1
        while at < len(rows) and rows[at].fingerprint != fingerprint:
            _check_made_by_time(rows, at, recorded, roots)
            at += 1
        if at == len(rows):
            raise damaged(f"the table of bundles misses the one of {where}")
        if rows[at].since != time:  # or time had made it before the transition that names it, too
            _check_made_by_time(rows, at, recorded, roots)
    for rest in range(at + 1, len(rows)):
        _check_made_by_time(rows, rest, recorded, roots)


def _check_made_by_time(
    rows: Sequence[Row[Any]], at: int, recorded: RecordedAuthorities, roots: Mapping[str, x509.Certificate]
) -> None:
    if at == 0 and not recorded.names_all_bundles:
        return
    here, before = (frozenset(rows[one].roots.split()) if one >= 0 else frozenset() for one in (at, at - 1))
    over = {name for name in here | before if roots[name].not_valid_after_utc <= rows[at].since}
    # Where all have expired, all stay.
    if not (here < before and before - here <= over) and not here <= over:
        raise damaged(f"the bundle {rows[at].sequence} was given out at a time and for a reason that no entry records")


def _parsed(pem: str, what: str) -> tuple[x509.Certificate, ...]:
    try:
        return parse_certificates(pem, what=what)
    except AppError as error:
        raise damaged(error.detail) from None


def recorded_authorities(transitions: Iterable[tuple[LedgerEntry, str]]) -> RecordedAuthorities:
    """All of them; the text beside each entry names it.

    Raises:
        AppError: `FAILED_PRECONDITION` naming an entry that is none of ours.
    """
    recorded = RecordedAuthorities()
    for entry, where in transitions:
        try:
            recorded.take(entry, where)
        except (KeyError, TypeError, AttributeError):  # signed or not, nobody's transition looks so
            raise damaged(f"{where} is no transition that this program writes") from None
    return recorded
