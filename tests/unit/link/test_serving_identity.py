"""The worker's own key and certificate."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.errors import AppError, ErrorCode
from app.link.serving_identity import ServingIdentity
from app.link.wire import ServingChain

_ISSUER_KEY = ec.generate_private_key(ec.SECP256R1())
_NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")])


def _certificate(public_key: ec.EllipticCurvePublicKey, life: timedelta, serial: int = 7) -> str:
    now = datetime.now(UTC).replace(microsecond=0)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(_NAME)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(now)
        .not_valid_after(now + life)
        .sign(_ISSUER_KEY, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _root(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    now = datetime.now(UTC).replace(microsecond=0)
    builder = x509.CertificateBuilder().subject_name(_NAME).issuer_name(_NAME).public_key(key.public_key())
    builder = builder.serial_number(8).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256())


class Issuing:
    """A link that issues, or answers what a test wants."""

    def __init__(self, life: timedelta = timedelta(hours=1)) -> None:
        self.life = life
        self.csrs: list[x509.CertificateSigningRequest] = []
        self.failures = 0
        self.other_key = False
        self.replaced: list[tuple[str, ...]] = []
        self.converge_by: datetime | None = None

    async def request_serving_certificate(self, csr_pem: str, *, replaced: Sequence[str] = ()) -> ServingChain:
        self.replaced.append(tuple(replaced))
        if self.failures:
            self.failures -= 1
            raise AppError(ErrorCode.UNAVAILABLE, "away")
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        self.csrs.append(csr)
        key = _ISSUER_KEY.public_key() if self.other_key else csr.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        serial = 7 + len(self.csrs)
        leaf, issuing = _certificate(key, self.life, serial), _certificate(_ISSUER_KEY.public_key(), self.life)
        return ServingChain(chain=[leaf, issuing, "roots"], converges_by=self.converge_by)


async def test_each_renewal_makes_a_new_key_and_presents_no_root() -> None:
    """The chain is leaf and intermediates, the key belongs to the leaf, renewal is due at half of the life."""
    link = Issuing()
    identity = ServingIdentity(link)
    first = await identity.renew()
    second = await identity.renew()
    assert second is identity.current
    assert first.key_pem != second.key_pem
    key = serialization.load_pem_private_key(second.key_pem, None)
    chain = x509.load_pem_x509_certificates(second.chain_pem)
    assert 2 == len(chain)
    assert key.public_key() == chain[0].public_key()
    assert second.renew_at - chain[0].not_valid_before_utc == timedelta(minutes=30)
    assert all(csr.is_signature_valid and csr.subject.rdns == [] for csr in link.csrs)


async def test_a_certificate_for_another_key_is_refused() -> None:
    """What was served before is served on."""
    link = Issuing()
    identity = ServingIdentity(link)
    before = await identity.renew()
    link.other_key = True
    with pytest.raises(AppError) as caught:
        await identity.renew()
    assert ErrorCode.MALFORMED == caught.value.code
    assert before is identity.current


async def test_a_root_that_leaves_the_bundle_makes_a_new_certificate() -> None:
    """Whoever took the bundle over believes in nothing under the old root; half of a life would be too late."""
    root, other = _root(_ISSUER_KEY), _root(ec.generate_private_key(ec.SECP256R1()))
    bundle = [root, other]
    link = Issuing()
    identity = ServingIdentity(
        link, roots=lambda: "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in bundle)
    )
    running = asyncio.create_task(identity.run())
    try:
        async with asyncio.timeout(60):
            first = await identity.wait_ready()
            await asyncio.sleep(1.1)
            assert identity.current is first
            bundle.remove(root)
            while identity.current is first:
                await asyncio.sleep(0.05)
    finally:
        running.cancel()
    assert 2 <= len(link.csrs)


async def test_a_deadline_that_comes_before_the_renewal_makes_a_new_certificate_once() -> None:
    """One made under the deadline is as short as it can be, however late that still is; a new deadline counts anew."""
    link = Issuing()
    identity = ServingIdentity(link)
    deadline = datetime.now(UTC) + timedelta(minutes=20)
    made = replace(await identity.renew(), converges_by=deadline)
    assert [made.is_late_for(one) for one in (deadline, deadline - timedelta(minutes=1))] == [False, True]
    assert not made.is_late_for(None)
    assert not made.is_late_for(made.renew_at)

    running = asyncio.create_task(identity.run())
    try:
        async with asyncio.timeout(60):
            first = await identity.wait_ready()
            while identity.current is first:  # that of the start
                await asyncio.sleep(0.05)
            second, link.converge_by = identity.current, deadline
            identity.hear_deadline(deadline)
            while identity.current is second:
                await asyncio.sleep(0.05)
    finally:
        running.cancel()
    assert identity.current is not None
    assert deadline == identity.current.converges_by


async def test_a_request_names_what_is_out_of_use(tmp_path: Path) -> None:
    """What was replaced for good: presented no more, and not in the file from which the next start would serve."""
    link, folder = Issuing(), tmp_path / "worker"
    identity = ServingIdentity(link, folder / "serving.pem")
    first, second = [await identity.renew() for _ in range(2)]
    folder.rename(tmp_path / "kept")
    folder.write_text("a file, where a folder must be")
    third = await identity.renew()
    folder.unlink()
    for _ in range(2):
        await identity.renew()

    assert [(), (), (first.serial,), (first.serial,), (first.serial, third.serial)] == link.replaced
    assert second.serial not in link.replaced[-1]


async def test_an_authority_that_is_away_is_asked_again() -> None:
    """The first certificate comes as soon as the authority does."""
    link = Issuing()
    link.failures = 2
    identity = ServingIdentity(link)
    running = asyncio.create_task(identity.run())
    try:
        async with asyncio.timeout(10):
            assert await identity.wait_ready() is identity.current
        assert 1 == len(link.csrs)
    finally:
        running.cancel()


async def test_a_start_without_the_authority_serves_with_the_last_certificate(tmp_path: Path) -> None:
    """What the process before had is presented at once, lies there for the owner alone, and is renewed when that works."""
    file = tmp_path / "worker" / "serving.pem"
    before = await ServingIdentity(Issuing(), file).renew()
    link = Issuing()
    link.failures = 1
    identity = ServingIdentity(link, file)

    identity.start_from_last_good(datetime.now(UTC))

    assert before == await identity.wait_ready()
    assert 0o600 == file.stat().st_mode & 0o777
    with pytest.raises(AppError):
        await identity.renew()
    assert before == identity.current
    renewed = await identity.renew()
    assert renewed.key_pem in file.read_bytes()


@pytest.mark.parametrize("kept", [b"", b"not a key", b"\xff\x00"])
async def test_a_kept_certificate_that_cannot_be_read_is_ignored(tmp_path: Path, kept: bytes) -> None:
    """The worker then waits for the authority, as one that never had any."""
    file = tmp_path / "serving.pem"
    file.write_bytes(kept)
    identity = ServingIdentity(Issuing(), file)

    identity.start_from_last_good(datetime.now(UTC))

    assert identity.current is None
    await identity.renew()
    assert identity.current is not None


async def test_an_expired_certificate_is_not_served(tmp_path: Path) -> None:
    """An old file beside the snapshot gives nobody a certificate that clients would refuse."""
    file = tmp_path / "serving.pem"
    kept = await ServingIdentity(Issuing(), file).renew()
    identity = ServingIdentity(Issuing(), file)

    identity.start_from_last_good(kept.not_after)

    assert identity.current is None


async def test_a_full_disk_does_not_stop_a_renewal(tmp_path: Path) -> None:
    """The certificate is used although it cannot be kept."""
    (tmp_path / "blocked").write_text("a file, where a folder must be")
    identity = ServingIdentity(Issuing(), tmp_path / "blocked" / "serving.pem")

    assert await identity.renew() is identity.current
