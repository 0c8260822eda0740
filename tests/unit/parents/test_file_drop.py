"""A folder as the parent: the CSR appears whole, the right answer is taken, the wrong one never."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from app.errors import AppError, ErrorCode
from app.parents.file_drop import FileDrop
from tests.support.ca import ManualClock
from tests.support.certificates import TRUST_DOMAIN
from tests.support.istio_files import certificate, name, pem
from tests.support.parents import authority_csr

DAY = timedelta(days=1)
ROOT_KEY = ec.generate_private_key(ec.SECP256R1())
ROOT = certificate(name(CN="offline root"), ROOT_KEY)


def sign(csr_pem: bytes) -> x509.Certificate:
    """What somebody's job makes of a CSR."""
    request = x509.load_pem_x509_csr(csr_pem)

    class PublicOnly:
        def public_key(self) -> object:
            return request.public_key()

    return certificate(name(CN="ours"), PublicOnly(), ROOT, ROOT_KEY, path_length=0)  # type: ignore[arg-type]


def drop(folder: Path, turns: list[Callable[[], None]], wait_seconds: float = 5) -> FileDrop:
    """A drop that does one of `turns` each time it would sleep."""

    async def sleep(_: float) -> None:
        if turns:
            turns.pop(0)()

    return FileDrop(
        folder, trust_domain=TRUST_DOMAIN, clock=ManualClock(), wait_seconds=wait_seconds, poll_seconds=1, sleep=sleep
    )


async def test_the_csr_is_left_and_its_answer_taken_in_any_order(tmp_path: Path) -> None:
    """A half-written answer is waited out; both files are gone afterwards."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = authority_csr(key)
    seen: list[Path] = []

    def answer(part: float) -> None:
        seen[:] = list(tmp_path.glob("*.csr"))
        assert csr.encode() == seen[0].read_bytes()
        data = pem(ROOT, sign(seen[0].read_bytes()))
        seen[0].with_suffix(".pem").write_bytes(data[: int(len(data) * part)])

    signed = await drop(tmp_path, [lambda: answer(0.7), lambda: answer(1.0)]).sign_intermediate(csr, lifetime=DAY)

    assert key.public_key() == x509.load_pem_x509_certificate(signed.certificate_pem.encode()).public_key()
    assert ("", pem(ROOT).decode()) == (signed.chain_pem, signed.root_pem)
    assert [] == list(tmp_path.iterdir())


async def test_without_an_answer_the_csr_is_withdrawn(tmp_path: Path) -> None:
    """Its key will be forgotten, so nobody should sign it any more."""
    with pytest.raises(AppError) as failure:
        await drop(tmp_path, []).sign_intermediate(authority_csr(ROOT_KEY), lifetime=DAY)

    assert ErrorCode.UNAVAILABLE is failure.value.code
    assert [] == list(tmp_path.iterdir())


async def test_an_answer_for_another_key_is_refused(tmp_path: Path) -> None:
    """And left for whoever put it there."""
    other = authority_csr(ec.generate_private_key(ec.SECP256R1())).encode()

    def answer() -> None:
        file = next(tmp_path.glob("*.csr"))
        file.with_suffix(".pem").write_bytes(pem(sign(other), ROOT))

    with pytest.raises(AppError, match="no certificate in it has the key of the CSR"):
        await drop(tmp_path, [answer]).sign_intermediate(
            authority_csr(ec.generate_private_key(ec.SECP256R1())), lifetime=DAY
        )


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Nothing is made in its place."""
    with pytest.raises(AppError) as failure:
        await drop(tmp_path / "missing", []).sign_intermediate(authority_csr(ROOT_KEY), lifetime=DAY)

    assert ErrorCode.FAILED_PRECONDITION is failure.value.code
    assert "missing" in failure.value.detail
    assert datetime.now(UTC) < ROOT.not_valid_after_utc
