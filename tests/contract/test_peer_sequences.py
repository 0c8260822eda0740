"""What was believed of a peer, in the database."""

from __future__ import annotations

from app.authority.authorities.peer_sequences import SeenBundle, StoredPeerSequences
from app.storage.database import Database


async def test_the_highest_sequence_of_each_peer_is_kept(database: Database) -> None:
    """Whoever comes late with an older one (another replica) changes nothing."""
    sequences = StoredPeerSequences(database)
    assert None is await sequences.last("east")
    for number, fingerprint in ((5, "aa"), (7, "bb"), (6, "cc")):
        await sequences.believe("east", SeenBundle(number, fingerprint))
    await sequences.believe("west", SeenBundle(1, "dd"))

    again = StoredPeerSequences(database)
    assert SeenBundle(7, "bb") == await again.last("east")
    assert SeenBundle(1, "dd") == await again.last("west")
