"""Sealed keys: open only under their name and passphrase, and quickly say when they do not."""

from __future__ import annotations

import time

import pytest

from app.errors import AppError, ErrorCode
from app.keys.passphrase import Passphrase
from app.keys.sealing import MAX_SECRET_BYTES, ScryptCost, Sealer

QUICK = ScryptCost(log2_n=4)
SECRET = b"the key of an authority"


def sealer(passphrase: bytes = b"correct horse battery", cost: ScryptCost = QUICK) -> Sealer:
    return Sealer(Passphrase(passphrase), cost=cost)


def refusal(opener: Sealer, sealed: bytes, name: str = "authority:1") -> AppError:
    with pytest.raises(AppError) as caught:
        opener.unseal(name, sealed)
    assert ErrorCode.FAILED_PRECONDITION is caught.value.code
    assert SECRET.decode() not in str(caught.value)
    return caught.value


def test_what_was_sealed_opens_again() -> None:
    """In the same process and in the next."""
    sealed = sealer().seal("authority:1", SECRET)
    assert SECRET == sealer().unseal("authority:1", sealed)
    assert SECRET not in sealed


def test_the_same_secret_never_seals_the_same() -> None:
    """A fresh nonce every time."""
    one = sealer()
    assert one.seal("authority:1", SECRET) != one.seal("authority:1", SECRET)


def test_case_124_a_wrong_passphrase_is_said() -> None:
    """With the real work factor."""
    sealed = sealer(cost=ScryptCost()).seal("authority:1", SECRET)
    refused = refusal(sealer(b"wrong horse battery", ScryptCost()), sealed)
    assert "passphrase is wrong" in refused.detail


def test_a_sealed_key_does_not_move_to_another_name() -> None:
    """A thief of the database cannot swap a root's key for an issuing one."""
    one = sealer()
    assert "does not open" in refusal(one, one.seal("authority:2", SECRET)).detail


def test_every_changed_byte_is_found() -> None:
    """Header, salt, nonce, ciphertext and tag."""
    one = sealer()
    sealed = one.seal("authority:1", SECRET)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        refusal(one, bytes(changed))


def test_cut_and_foreign_bytes_are_refused() -> None:
    """Whatever is in the column."""
    one = sealer()
    sealed = one.seal("authority:1", SECRET)
    for broken in (b"", b"GHS1", sealed[:40], sealed[:-1], sealed + b"\0", b"GHS2" + sealed[4:], SECRET * 10):
        refusal(one, broken)


@pytest.mark.parametrize("factors", [(63, 8, 1), (19, 8, 1), (15, 255, 1), (15, 8, 255), (0, 8, 1), (15, 0, 1)])
def test_a_forged_work_factor_costs_nothing(factors: tuple[int, int, int]) -> None:
    """More than 256 MiB or a second is refused before anything is derived."""
    one = sealer()
    sealed = one.seal("authority:1", SECRET)
    forged = sealed[:4] + bytes(factors) + sealed[7:]
    start = time.process_time()
    assert "damaged" in refusal(one, forged).detail
    assert time.process_time() - start < 0.5  # 256 MiB and more cost seconds


def test_the_derivation_happens_once_a_process() -> None:
    """The keys of one installation share a salt: the second to the hundredth cost nothing."""
    first = sealer(cost=ScryptCost())
    sealed = [first.seal(f"authority:{number}", SECRET) for number in range(3)]
    assert 1 == len({one[7:23] for one in sealed})
    second = sealer(cost=ScryptCost())
    second.unseal("authority:0", sealed[0])
    start = time.process_time()
    for number in range(3):
        assert SECRET == second.unseal(f"authority:{number}", sealed[number])
    added = second.seal("authority:3", SECRET)
    assert time.process_time() - start < 0.02
    assert sealed[0][:23] == added[:23]


def test_installations_do_not_share_a_salt() -> None:
    """Random for each first sealing."""
    assert sealer().seal("a", SECRET)[7:23] != sealer().seal("a", SECRET)[7:23]


def test_large_secrets_are_refused() -> None:
    """Keys are small."""
    with pytest.raises(AppError) as caught:
        sealer().seal("a", bytes(MAX_SECRET_BYTES + 1))
    assert ErrorCode.TOO_LARGE is caught.value.code


def test_a_sealer_does_not_show_its_passphrase() -> None:
    """Not in a repr."""
    assert "Sealer(***)" == repr(sealer())
