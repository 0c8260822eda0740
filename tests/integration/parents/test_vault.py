"""OpenBao/Vault as the parent, over its real HTTP shape against a stand-in that signs for real."""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from app.ca.authority_lint import check_chain
from app.errors import AppError, ErrorCode
from app.fetch.client import HttpClient
from app.limits import FetchLimits
from app.parents.vault import VaultAuthority, VaultLogin, VaultMount
from tests.support.ca import ManualClock
from tests.support.certificates import TRUST_DOMAIN
from tests.support.istio_files import pem
from tests.support.parents import authority_csr
from tests.support.pki import TestAuthority
from tests.support.vault import Vault

YEAR = timedelta(days=365)
KEY = ec.generate_private_key(ec.SECP256R1())
CSR = authority_csr(KEY)


def secret(folder: Path, text: str) -> Path:
    file = folder / "secret"
    file.write_text(text + "\n")
    return file


def parent(vault: Vault, login: VaultLogin, ca_file: Path | None = None, **mount: Any) -> VaultAuthority:
    client = HttpClient(vault.url, FetchLimits(timeout_seconds=5), ca_file=ca_file)
    return VaultAuthority(client, login, VaultMount(**mount), trust_domain=TRUST_DOMAIN, clock=ManualClock())


async def test_a_token_from_a_file_gets_a_csr_signed(tmp_path: Path) -> None:
    """The answer is the certificate of our key, the intermediate, and the root, each where it belongs."""
    async with Vault().serve() as vault:
        signed = await parent(vault, VaultLogin(token_file=secret(tmp_path, vault.token))).sign_intermediate(
            CSR, lifetime=YEAR
        )

    certificate = x509.load_pem_x509_certificate(signed.certificate_pem.encode())
    assert KEY.public_key() == certificate.public_key()
    assert (pem(vault.intermediate).decode(), pem(vault.root).decode()) == (signed.chain_pem, signed.root_pem)
    check_chain([certificate, vault.intermediate, vault.root])
    assert ("31536000s", 0, True) == tuple(
        vault.requests[0][field] for field in ("ttl", "max_path_length", "use_csr_values")
    )


async def test_names_can_be_sent_as_parameters_and_an_issuer_and_a_namespace_named(tmp_path: Path) -> None:
    """For mounts that do not take values from CSRs; the SPIFFE ID of the trust domain is asked for."""
    async with Vault(mount="mesh/pki", namespace="team-a").serve() as vault:
        made = parent(
            vault,
            VaultLogin(token_file=secret(tmp_path, vault.token)),
            mount="mesh/pki",
            namespace="team-a",
            issuer="mesh",
            use_csr_values=False,
        )
        signed = await made.sign_intermediate(CSR, lifetime=YEAR)

    certificate = x509.load_pem_x509_certificate(signed.certificate_pem.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert ["spiffe://cluster.local"] == names.get_values_for_type(x509.UniformResourceIdentifier)
    assert "/v1/mesh/pki/issuer/mesh/sign-intermediate" == vault.requests[0]["path"]


async def test_approle_and_kubernetes_log_in_first(tmp_path: Path) -> None:
    """With the secret that stands in its file at that moment."""
    async with Vault().serve() as vault:
        file = secret(tmp_path, "wrong")
        approle = parent(vault, VaultLogin(mount="approle", role_id=vault.role_id, secret_file=file))
        kubernetes = parent(vault, VaultLogin(mount="kubernetes", role=vault.kubernetes_role, secret_file=file))
        for made, right in ((approle, vault.secret_id), (kubernetes, vault.jwt)):
            file.write_text("wrong")
            with pytest.raises(AppError) as refused:
                await made.sign_intermediate(CSR, lifetime=YEAR)
            file.write_text(right)
            signed = await made.sign_intermediate(CSR, lifetime=YEAR)

            assert ErrorCode.FAILED_PRECONDITION is refused.value.code
            assert "BEGIN CERTIFICATE" in signed.certificate_pem


async def test_tls_with_roots_of_its_own(tmp_path: Path) -> None:
    """As a server inside a company has them."""
    authority = TestAuthority(tmp_path)
    credentials = authority.issue(None, file_name="vault", dns="localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(credentials.certificate, credentials.private_key)
    async with Vault().serve(context) as vault:
        made = parent(vault, VaultLogin(token_file=secret(tmp_path, vault.token)), ca_file=authority.bundle)
        assert "BEGIN" in (await made.sign_intermediate(CSR, lifetime=YEAR)).root_pem


async def test_a_mount_without_the_root_needs_it_named(tmp_path: Path) -> None:
    """The mount is an intermediate itself, and does not know what is above it."""
    async with Vault(sends_root=False).serve() as vault:
        login = VaultLogin(token_file=secret(tmp_path, vault.token))
        with pytest.raises(AppError, match="does not reach a root"):
            await parent(vault, login).sign_intermediate(CSR, lifetime=YEAR)
        roots = tmp_path / "roots.pem"
        roots.write_bytes(pem(vault.root))
        signed = await parent(vault, login, roots_file=roots).sign_intermediate(CSR, lifetime=YEAR)

    assert pem(vault.root).decode() == signed.root_pem


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        ("key", "no certificate in it has the key of the CSR"),
        ("leaf", "may not sign certificates"),
        ("usage", "may not sign certificates"),
        ("signature", "does not reach a root"),
        ("expired", "is valid only from"),
        ("trust domain", "elsewhere.example"),
    ],
)
async def test_what_comes_back_is_checked(tmp_path: Path, spoil: str, sentence: str) -> None:
    """A parent that errs does not become ours."""
    async with Vault(spoil=spoil).serve() as vault:
        made = parent(vault, VaultLogin(token_file=secret(tmp_path, vault.token)), use_csr_values=False)
        with pytest.raises(AppError) as failure:
            await made.sign_intermediate(CSR, lifetime=YEAR)

    assert ErrorCode.INVALID is failure.value.code
    assert sentence in failure.value.detail


@pytest.mark.parametrize(
    ("status", "errors", "code", "sentence"),
    [
        (400, ["cannot satisfy request, as TTL is too long"], ErrorCode.FAILED_PRECONDITION, "TTL is too long"),
        (403, ["permission denied"], ErrorCode.FAILED_PRECONDITION, "its policy must allow update"),
        (404, ["no handler"], ErrorCode.FAILED_PRECONDITION, "check the mount"),
        (429, ["rate limit"], ErrorCode.UNAVAILABLE, "status 429"),
        (473, [], ErrorCode.UNAVAILABLE, "status 473"),
        (500, ["internal"], ErrorCode.UNAVAILABLE, "internal"),
        (503, ["Vault is sealed"], ErrorCode.UNAVAILABLE, "it is sealed or not ready"),
        (307, [], ErrorCode.UNAVAILABLE, "it is a standby"),
    ],
)
async def test_refusals_say_what_to_do_and_whether_waiting_helps(
    tmp_path: Path, status: int, errors: list[str], code: ErrorCode, sentence: str
) -> None:
    """UNAVAILABLE passes by itself, FAILED_PRECONDITION needs somebody."""
    async with Vault(failure=(status, {"errors": errors})).serve() as vault:
        made = parent(vault, VaultLogin(token_file=secret(tmp_path, vault.token)))
        with pytest.raises(AppError) as failure:
            await made.sign_intermediate(CSR, lifetime=YEAR)

    assert (code, True) == (failure.value.code, sentence in failure.value.detail), failure.value.detail


@pytest.mark.parametrize(
    "answer", [[], {"data": None}, {"data": {"certificate": 1}}, {"data": {"certificate": "x", "ca_chain": [1]}}]
)
async def test_an_answer_of_another_shape_is_refused(tmp_path: Path, answer: Any) -> None:
    """Also with status 200."""
    async with Vault(failure=(200, answer)).serve() as vault:
        made = parent(vault, VaultLogin(token_file=secret(tmp_path, vault.token)))
        with pytest.raises(AppError) as failure:
            await made.sign_intermediate(CSR, lifetime=YEAR)

    assert failure.value.code in (ErrorCode.INVALID, ErrorCode.UNAVAILABLE)


async def test_a_secret_is_in_no_log_and_no_error(tmp_path: Path) -> None:
    """Neither a token that is refused nor one that works."""
    async with Vault().serve() as vault:
        made = parent(vault, VaultLogin(token_file=secret(tmp_path, "s.very-secret-and-wrong")))
        with capture_logs() as logs, pytest.raises(AppError) as failure:
            await made.sign_intermediate(CSR, lifetime=YEAR)
        good = parent(vault, VaultLogin(token_file=secret(tmp_path, vault.token)))
        with capture_logs() as more:
            await good.sign_intermediate(CSR, lifetime=YEAR)

    everything = f"{logs}{more}{failure.value!r}{failure.value.detail}{failure.value.diagnosis}"
    assert "very-secret" not in everything
    assert vault.token not in everything


async def test_a_missing_or_empty_secret_file_is_named(tmp_path: Path) -> None:
    """Before anything is asked."""
    async with Vault().serve() as vault:
        for file in (tmp_path / "missing", secret(tmp_path, "")):
            with pytest.raises(AppError) as failure:
                await parent(vault, VaultLogin(token_file=file)).sign_intermediate(CSR, lifetime=YEAR)
            assert ErrorCode.FAILED_PRECONDITION is failure.value.code
            assert str(file) in failure.value.detail
