"""Starts the signer process of the authority, from settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import datetime

import structlog

from app.bootstrap.secrets import PASSPHRASE, PIN, take_secrets
from app.bootstrap.state import is_first_run, passphrase_file
from app.ca.authority import Authority
from app.ca.authority_lint import examine_chain
from app.ca.profile import WorkloadProfile, max_workload_lifetime
from app.ca.self_check import profile_findings
from app.errors import AppError, ErrorCode
from app.keys.signer_client import SignerClient
from app.keys.signer_settings import SignerSettings, TokenSettings
from app.settings import Settings
from app.telemetry import metrics

_log = structlog.get_logger(__name__)


def signer_settings(settings: Settings, secrets: Mapping[str, int]) -> SignerSettings:
    """What the signer is told; `secrets` are those that come as descriptors."""
    keys, token = settings.keys, None
    if keys.pkcs11.module is not None:
        token = TokenSettings(
            module=str(keys.pkcs11.module.expanduser().absolute()),
            token_label=keys.pkcs11.token_label,
            pin_file="" if PIN in secrets else str(keys.pkcs11.pin_file),
            generate=keys.pkcs11.generate,
            allow_sockets=keys.pkcs11.allow_sockets,
        )
    return SignerSettings(
        trust_domain=settings.trust_domain,
        passphrase_file="" if PASSPHRASE in secrets else str(passphrase_file(settings)),
        create_passphrase=keys.passphrase_file is None and is_first_run(settings),
        user=keys.signer_user,
        environment=keys.pkcs11.environment if token is not None else (),
        token=token,
    )


def check_profiles(authority: Authority, settings: Settings, *, now: datetime) -> None:
    """Build and lint every profile of ours under the active authority, before anything is issued.

    What an authority that somebody else made lacks is logged, with what that costs.

    Raises:
        AppError: `FAILED_PRECONDITION` when any of them makes findings; the diagnosis has them all.
    """
    chain = (authority.certificate, *authority.intermediates[1:], authority.root)
    for warning in examine_chain(chain[:1] if authority.certificate == authority.root else chain).warnings:
        _log.warning("authority_lacks", authority=authority.id, finding=warning)
    limits = settings.limits.certificate
    findings = profile_findings(
        authority, WorkloadProfile.from_limits(limits), max_lifetime=max_workload_lifetime(limits), now=now
    )
    if findings:
        raise AppError(
            ErrorCode.FAILED_PRECONDITION,
            f"nothing is issued, because a certificate would not be as it must: {findings[0]}",
            diagnosis="; ".join(findings),
        )


async def start_signer(settings: Settings, secrets: Mapping[str, int], stack: AsyncExitStack) -> SignerClient:
    """A started signer, which `stack` ends.

    Raises:
        AppError: `FAILED_PRECONDITION` when it refuses to start: the passphrase, the user, the PKCS#11 token.
    """
    if not secrets:  # nobody took them out before
        settings, own = take_secrets(settings)
        for descriptor in own.values():
            stack.callback(os.close, descriptor)
        secrets = own
    client = SignerClient(
        signer_settings(settings, secrets),
        settings.limits.signer,
        secrets=tuple(secrets[name] for name in (PASSPHRASE, PIN) if name in secrets),
        on_restart=metrics.SIGNER_RESTARTS.inc,
    )
    stack.push_async_callback(client.close)
    await client.start()
    return client
