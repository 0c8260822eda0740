"""The last good keys of issuers, in the database."""

from __future__ import annotations

from app.authority.policies.token_key_memory import KeptKeys, StoredTokenKeys
from app.storage.database import Database


async def test_the_last_keys_of_each_source_are_kept(database: Database) -> None:
    """For every replica and the next start; what nobody names any more is forgotten with the next one."""
    memory = StoredTokenKeys(database)
    assert {} == await memory.load()
    one, two = KeptKeys(({"kty": "EC", "kid": "1"},), 5.5), KeptKeys(({"kty": "OKP"}, {"kty": "RSA"}), 6.0)
    await memory.keep("a", KeptKeys((), 1.0), {"a", "b"})
    await memory.keep("a", one, {"a", "b"})
    await memory.keep("b", two, {"a", "b"})
    assert {"a": one, "b": two} == await StoredTokenKeys(database).load()
    await memory.keep("b", two, {"b"})
    assert {"b": two} == await memory.load()
