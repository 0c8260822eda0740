"""Named tokens, over both databases."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from app.authority.actor import Actor, Role
from app.errors import AppError, ErrorCode
from app.storage.database import Database
from app.storage.tables import tokens
from tests.support.administration import ALICE, WORKER, StandingClock, administration_over

SYSTEM = Actor.system()


async def code_of(awaitable: Any) -> ErrorCode:
    with pytest.raises(AppError) as caught:
        await awaitable
    return caught.value.code


async def test_a_token_authenticates_as_its_name_and_role(database: Database) -> None:
    """Create, then use: `gh_<role>_<id>_<secret>` speaks for its holder."""
    administration = administration_over(database)
    for role in Role:
        made = await administration.tokens.create(SYSTEM, name="bob", role=role)
        assert re.fullmatch(rf"gh_{role.value}_[a-z2-7]{{13}}_[a-z2-7]{{52}}", made.secret)
        actor = await administration.tokens.authenticate(made.secret)
        assert Actor(name="bob", role=role, token_id=made.token.id) == actor
        assert f"{role.value}:bob" == actor.label


async def test_the_secret_is_stored_nowhere(database: Database) -> None:
    """The row has a hash; the ledger has the act, the name and the id; no text has the secret."""
    made = await administration_over(database).tokens.create(ALICE, name="bob", role=Role.ADMIN)
    secret = made.secret.rpartition("_")[2]
    row = await database.read(lambda transaction: transaction.connection.execute(select(tokens)).one())
    assert len(row.secret_hash) == 32
    assert secret not in repr(tuple(row))
    ((_, data, _),) = await database.read_ledger(0, 10)
    entry = json.loads(data)
    assert ("admin:alice", f"token/{made.token.id}", {"act": "token.create", "name": "bob", "role": "admin"}) == (
        entry["actor"],
        entry["subject"],
        entry["detail"],
    )
    assert secret not in repr(made)


async def test_a_revoked_token_is_refused_at_once(database: Database) -> None:
    """Although it was just remembered, it does not outlive its revocation."""
    administration = administration_over(database)
    made = await administration.tokens.create(SYSTEM, name="bob", role=Role.ADMIN)
    await administration.tokens.authenticate(made.secret)
    revoked = await administration.tokens.revoke(ALICE, made.token.id)
    assert revoked.revoked_at is not None
    assert ErrorCode.UNAUTHENTICATED is await code_of(administration.tokens.authenticate(made.secret))
    assert revoked == await administration.tokens.revoke(ALICE, made.token.id)  # once is enough
    assert () == await administration.tokens.read_all(ALICE)
    assert [revoked] == list(await administration.tokens.read_all(ALICE, include_revoked=True))


async def test_a_revocation_by_another_replica_is_noticed_in_seconds(database: Database) -> None:
    """What is remembered is remembered for five seconds."""
    clock = StandingClock()
    here, there = administration_over(database, clock), administration_over(database, clock)
    made = await here.tokens.create(SYSTEM, name="bob", role=Role.ADMIN)
    await here.tokens.authenticate(made.secret)
    await there.tokens.revoke(ALICE, made.token.id)
    clock.advance(5)
    assert ErrorCode.UNAUTHENTICATED is await code_of(here.tokens.authenticate(made.secret))


async def test_a_remembered_token_costs_no_read(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second request within the seconds does not ask the database."""
    administration = administration_over(database)
    made = await administration.tokens.create(SYSTEM, name="bob", role=Role.ADMIN)
    first = await administration.tokens.authenticate(made.secret)

    async def no_read(*_: object) -> None:
        raise AssertionError("the database was asked")

    monkeypatch.setattr(database, "read", no_read)
    assert first == await administration.tokens.authenticate(made.secret)
    wrong = made.secret[:-1] + ("a" if made.secret[-1] != "a" else "b")
    assert ErrorCode.UNAUTHENTICATED is await code_of(administration.tokens.authenticate(wrong))


async def test_an_expired_token_is_refused(database: Database) -> None:
    """An expiry is optional, lies in the future, and is kept."""
    clock = StandingClock()
    administration = administration_over(database, clock)
    expiry = clock.now() + timedelta(seconds=2)
    made = await administration.tokens.create(SYSTEM, name="bob", role=Role.ADMIN, expires_at=expiry)
    await administration.tokens.authenticate(made.secret)
    clock.advance(2)
    assert ErrorCode.UNAUTHENTICATED is await code_of(administration.tokens.authenticate(made.secret))
    past = administration.tokens.create(SYSTEM, name="eve", role=Role.ADMIN, expires_at=clock.now())
    assert ErrorCode.INVALID is await code_of(past)
    await administration.tokens.create(SYSTEM, name="bob", role=Role.ADMIN)  # an expired one holds no name


async def test_a_name_is_held_by_one_active_token_of_its_role(database: Database) -> None:
    """A second `alice` would make the ledger ambiguous; another role may share the name."""
    administration = administration_over(database)
    made = await administration.tokens.create(SYSTEM, name="bob", role=Role.ADMIN)
    await administration.tokens.create(SYSTEM, name="bob", role=Role.WORKER)
    assert ErrorCode.CONFLICT is await code_of(administration.tokens.create(SYSTEM, name="bob", role=Role.ADMIN))
    await administration.tokens.revoke(ALICE, made.token.id)
    await administration.tokens.create(SYSTEM, name="bob", role=Role.ADMIN)


async def test_a_reset_replaces_whatever_was_active(database: Database) -> None:
    """For who lost a token: the old ones end and the new one works, in one transaction."""
    administration = administration_over(database)
    old = await administration.tokens.create(SYSTEM, name="bob", role=Role.ADMIN)
    worker = await administration.tokens.create(SYSTEM, name="bob", role=Role.WORKER)
    await administration.tokens.authenticate(old.secret)
    new = await administration.tokens.reset(SYSTEM, name="bob", role=Role.ADMIN)
    assert ErrorCode.UNAUTHENTICATED is await code_of(administration.tokens.authenticate(old.secret))
    assert "bob" == (await administration.tokens.authenticate(new.secret)).name
    assert "bob" == (await administration.tokens.authenticate(worker.secret)).name
    subjects = [json.loads(data)["detail"]["act"] for _, data, _ in await database.read_ledger(2, 10)]
    assert ["token.revoke", "token.create"] == subjects


async def test_strings_that_are_no_tokens_are_refused_alike(database: Database) -> None:
    """Whatever is wrong with a token, the words are the same."""
    administration = administration_over(database)
    made = await administration.tokens.create(SYSTEM, name="bob", role=Role.WORKER)
    _, _, token_id, secret = made.secret.split("_")
    said = set()
    for text in (
        "",
        "x",
        "gh_admin__",
        f"gh_admin_{token_id}_{secret}",  # another role than the token has
        f"gh_worker_{'a' * 13}_{secret}",
        f"gh_worker_{token_id}_{'a' * 52}",
        f"gh_worker_{token_id}_{secret}\n",
        f"gh_root_{token_id}_{secret}",
        "gh_worker_" + "a" * 1_000_000,
        "\x00",
        "\ud800",
    ):
        with pytest.raises(AppError) as caught:
            await administration.tokens.authenticate(text)
        said.add((caught.value.code, caught.value.detail))
    assert {(ErrorCode.UNAUTHENTICATED, "the token is not valid")} == said


async def test_only_administrators_handle_tokens(database: Database) -> None:
    """A worker's token makes, shows and revokes none."""
    administration = administration_over(database)
    for attempt in (
        administration.tokens.create(WORKER, name="x", role=Role.ADMIN),
        administration.tokens.reset(WORKER, name="x", role=Role.ADMIN),
        administration.tokens.revoke(WORKER, "x"),
        administration.tokens.read_all(WORKER),
    ):
        assert ErrorCode.PERMISSION_DENIED is await code_of(attempt)


@pytest.mark.parametrize("name", ["", "Bob", "a b", "-a", "a-", "a\n", "a" * 64, "ä", "../x", "a\x00"])
async def test_bad_names_are_refused(database: Database, name: str) -> None:
    """A name is short, printable and safe to show everywhere."""
    administration = administration_over(database)
    assert ErrorCode.INVALID is await code_of(administration.tokens.create(SYSTEM, name=name, role=Role.ADMIN))


async def test_an_unknown_token_cannot_be_revoked(database: Database) -> None:
    """Whatever the id looks like."""
    administration = administration_over(database)
    for token_id in ("", "x", "\x00", "\ud800", "a" * 13, "a" * 10_000, "'; DROP TABLE tokens; --"):
        assert ErrorCode.NOT_FOUND is await code_of(administration.tokens.revoke(ALICE, token_id))
