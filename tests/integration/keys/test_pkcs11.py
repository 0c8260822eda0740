"""Keys in a PKCS#11 token: made and used there through the signer, with the token going away and coming back."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from app.ca.signing import is_signed_by
from app.errors import AppError, ErrorCode
from app.keys.signer_client import SignerClient
from app.keys.signer_settings import SignerSettings, TokenSettings
from app.limits import SignerLimits
from tests.support.certificates import verified
from tests.support.signer import (
    CHEAP_SETTINGS,
    MAX_LIFETIME,
    fresh_authorities,
    prepared_now,
    secret_file,
    signer_client,
)
from tests.support.soft_hsm import LABEL, PIN, SoftHsm, hand_over, make_soft_hsm, module

pytestmark = pytest.mark.skipif(module() is None, reason="SoftHSM2 is not installed")


@pytest.fixture
def hsm(monkeypatch: pytest.MonkeyPatch) -> Iterator[SoftHsm]:
    # Not below pytest's own folder, which every start of pytest closes to the user that the signer becomes.
    with tempfile.TemporaryDirectory() as folder:
        made = make_soft_hsm(Path(folder) / "hsm")
        monkeypatch.setenv("SOFTHSM2_CONF", str(made.configuration))
        if os.geteuid() == 0:
            hand_over(made, 65534)
            made.configuration.chmod(0o644)
        yield made


def settings(hsm: SoftHsm, **changes: object) -> SignerSettings:
    token = TokenSettings(module=str(module()), token_label=LABEL, pin_file=str(hsm.pin_file))
    return replace(CHEAP_SETTINGS, environment=("SOFTHSM2_CONF",), token=replace(token, **changes))


async def test_authorities_live_in_the_token(hsm: SoftHsm) -> None:
    """Nothing sealed is stored for them; certificates verify; the next signer finds the keys by their labels."""
    async with signer_client(settings(hsm)) as client:
        made = await fresh_authorities(client)
        assert [(b"", f"pkcs11:{row.id}") for row in made.rows] == [(row.sealed_key, row.key_ref) for row in made.rows]
        one = prepared_now(made.active)
        verified(one, await made.signer.sign(one.tbs))
    async with signer_client(settings(hsm)) as client:
        await client.open_authority(made.rows[1], max_lifetime=MAX_LIFETIME)
        verified(one, await client.signer(made.active.id).sign(one.tbs))


async def test_an_rsa_key_that_was_put_into_the_token_signs(hsm: SoftHsm) -> None:
    """As corporate authorities have them; found by its label."""
    import pkcs11

    token = pkcs11.lib(str(module())).get_token(token_label=LABEL)
    with token.open(rw=True, user_pin=PIN) as session:
        session.generate_keypair(pkcs11.KeyType.RSA, 2048, store=True, label="corporate")
    if os.geteuid() == 0:
        hand_over(hsm, 65534)
    from app.keys.pkcs11_token import Pkcs11Token

    device = Pkcs11Token(str(module()), LABEL, PIN)
    key = device.open("corporate")
    public_key = load_der_public_key(key.public_key_der)
    assert isinstance(public_key, rsa.RSAPublicKey)
    assert is_signed_by(public_key, key.sign(b"data"), b"data")
    with pytest.raises(AppError, match="exactly one key pair") as caught:
        device.open("nobody's")
    assert ErrorCode.FAILED_PRECONDITION is caught.value.code
    pkcs11.unload(str(module()))


async def refused_start(told: SignerSettings, *secrets: int) -> AppError:
    client = SignerClient(told, SignerLimits(), secrets=secrets)
    with pytest.raises(AppError) as caught:
        await client.start()
    await client.close()
    return caught.value


async def test_a_wrong_pin_refuses_the_start_and_names_the_setting(hsm: SoftHsm) -> None:
    """So do a token that is not there and a module that is none; the PIN stands in no sentence."""
    passphrase = secret_file()
    hsm.pin_file.write_text("not-the-pin-0815")
    wrong = await refused_start(settings(hsm), passphrase)
    assert ErrorCode.PERMISSION_DENIED is wrong.code
    assert "keys.pkcs11.pin_file" in wrong.detail
    assert "0815" not in repr(wrong)
    hsm.pin_file.chmod(0o644)
    assert "chmod 600" in (await refused_start(settings(hsm), passphrase)).detail
    hsm.pin_file.chmod(0o600)
    assert "keys.pkcs11.token_label" in (await refused_start(settings(hsm, token_label="other"), passphrase)).detail
    assert "keys.pkcs11.module" in (await refused_start(settings(hsm, module="/bin/true"), passphrase)).detail
    pin = secret_file(PIN.encode())
    client = SignerClient(settings(hsm, pin_file=""), SignerLimits(), secrets=(passphrase, pin))
    await client.start()
    await client.close()
    os.close(passphrase)
    os.close(pin)


async def eventually(act: Callable[[], Awaitable[bytes]]) -> bytes:
    async with asyncio.timeout(30):
        while True:
            try:
                return await act()
            except AppError as error:
                if error.code is not ErrorCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.05)


async def test_bar_k3_a_token_that_is_removed_under_load_fails_fast_and_comes_back(hsm: SoftHsm) -> None:
    """UNAVAILABLE at once while it is away, no crash, the same signer signs again when it is back."""
    async with signer_client(settings(hsm)) as client:
        made = await fresh_authorities(client)
        pid, one = client.pid, prepared_now(made.active)
        verified(one, await made.signer.sign(one.tbs))
        away = hsm.tokens.rename(hsm.folder / "away")
        failures = []
        for _ in range(20):
            began = time.monotonic()
            answers = await asyncio.gather(*(made.signer.sign(one.tbs) for _ in range(4)), return_exceptions=True)
            failures += [answer for answer in answers if isinstance(answer, AppError)]
            assert time.monotonic() - began < 4.0
        assert {ErrorCode.UNAVAILABLE} == {failure.code for failure in failures}
        away.rename(hsm.tokens)
        await eventually(lambda: made.signer.sign(one.tbs))
        assert pid == client.pid


async def test_a_signer_that_dies_while_the_token_is_away_comes_back_with_it(hsm: SoftHsm) -> None:
    """It is started again and again until the token is there; nobody has to do anything else."""
    async with signer_client(settings(hsm), limits=SignerLimits(request_seconds=3.0)) as client:
        made = await fresh_authorities(client)
        one = prepared_now(made.active, int(datetime.now(UTC).timestamp()))
        away = hsm.tokens.rename(hsm.folder / "away")
        hsm.tokens.mkdir()
        os.kill(client.pid, 9)
        with pytest.raises(AppError) as caught:
            await made.signer.sign(one.tbs)
        assert ErrorCode.UNAVAILABLE is caught.value.code
        hsm.tokens.rmdir()
        away.rename(hsm.tokens)
        await eventually(lambda: made.signer.sign(one.tbs))
