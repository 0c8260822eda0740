"""A Check of who is in quarantine: denied before any policy, by identity and, where it is sent, by certificate."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from app.decision.attributes import CheckAnswer
from app.policy.decision import Reason
from app.policy.quarantine import RevokedCertificates
from tests.support.certificates import make_csr, make_pki
from tests.support.decisions import (
    FRONTEND,
    LOCAL_WAYPOINT,
    MTLS_WAYPOINT,
    READERS,
    REPORTS,
    UNREGISTERED,
    WAYPOINT,
    Worker,
    mutual_tls,
    worker,
    xfcc,
)
from tests.support.quarantines import as_envoy_sends, quarantine

PKI = make_pki()
SVID = PKI.issue(make_csr())
OTHER = PKI.issue(make_csr(), number=8)


def outcome(answer: CheckAnswer) -> tuple[bool, Reason, str]:
    return answer.decision.allowed, answer.decision.reason, answer.decision.policy


QUARANTINED = (False, Reason.QUARANTINED, "Quarantine/q")


async def test_a_quarantined_identity_is_denied_ahead_of_allow_and_let_through_after_the_lift() -> None:
    """Others are not concerned."""
    serving = await worker(LOCAL_WAYPOINT, READERS)
    before = serving.check(headers=xfcc(FRONTEND))
    await serving.put(quarantine(identity=FRONTEND))
    during, others = serving.check(headers=xfcc(FRONTEND)), serving.check(headers=xfcc(REPORTS))
    serving.source.delete("Quarantine//q")
    await serving.reload()
    after = serving.check(headers=xfcc(FRONTEND))

    assert QUARANTINED == outcome(during)
    assert "key seen in a paste" in during.decision.hint
    assert Reason.NO_RULE_MATCHED is others.decision.reason
    assert (True, True) == (before.decision.allowed, after.decision.allowed)
    assert serving.holder.state is not None
    assert serving.holder.state.quarantines is None


async def test_source_principal_is_the_identity_where_envoy_terminated_tls() -> None:
    """Also from a proxy that is not registered."""
    serving = await worker(READERS, quarantine(namespace="shop", serviceAccount="frontend"))
    assert QUARANTINED == outcome(serving.check(UNREGISTERED, source_principal=FRONTEND))


async def test_a_quarantined_waypoint_gets_no_answer_but_denials() -> None:
    """A proxy that was taken over does not decide for its clients any more."""
    serving = await worker(MTLS_WAYPOINT, READERS, quarantine(identity=WAYPOINT))
    assert QUARANTINED == outcome(serving.check(mutual_tls(WAYPOINT), headers=xfcc(FRONTEND)))


async def test_the_end_of_a_quarantine_needs_no_new_snapshot() -> None:
    """`until` is compared with the worker's own clock."""
    serving = await worker(LOCAL_WAYPOINT, READERS, quarantine(identity=FRONTEND, until="2001-09-09T01:46:40Z"))
    seconds = 999_999_999.0
    serving.service._wall_clock = lambda: seconds
    during = serving.check(headers=xfcc(FRONTEND))
    seconds = 1_000_000_000.0
    after = serving.check(headers=xfcc(FRONTEND))

    assert (QUARANTINED, True) == (outcome(during), after.decision.allowed)


class Revoking:
    """A `RevokedSource` that revokes `SVID`."""

    async def revoked(self, number: int) -> RevokedCertificates:
        return RevokedCertificates(
            serials={(PKI.authority.id, SVID.serial_hex): "q"}, hashes={hashlib.sha256(SVID.der).hexdigest(): "q"}
        )


async def revoking_worker(*documents: dict[str, Any]) -> Worker:
    serving = await worker(LOCAL_WAYPOINT, READERS, *documents)
    serving.publisher._revoked = Revoking()
    await serving.put(quarantine(node="node-a"))
    return serving


async def test_a_certificate_of_a_quarantined_node_is_denied_where_envoy_sends_it() -> None:
    """`source.certificate` names it by issuer and serial."""
    serving = await revoking_worker()
    revoked = serving.check(source_principal=FRONTEND, source_certificate=as_envoy_sends(SVID))
    other = serving.check(source_principal=FRONTEND, source_certificate=as_envoy_sends(OTHER))
    silent = serving.check(source_principal=FRONTEND)

    assert QUARANTINED == outcome(revoked)
    assert (True, True) == (other.decision.allowed, silent.decision.allowed)


@pytest.mark.parametrize("extra", [f"Hash={SVID.sha256}", f'Cert="{as_envoy_sends(SVID)}"'])
async def test_a_believed_xfcc_names_the_certificate_too(extra: str) -> None:
    """By hash or as a whole."""
    serving = await revoking_worker()
    answer = serving.check(headers={"x-forwarded-client-cert": (f"By={WAYPOINT};{extra};URI={FRONTEND}",)})
    other = serving.check(headers={"x-forwarded-client-cert": (f"By={WAYPOINT};Hash={OTHER.sha256};URI={FRONTEND}",)})

    assert QUARANTINED == outcome(answer)
    assert other.decision.allowed


async def test_a_certificate_that_cannot_be_read_is_denied_only_while_certificates_are_revoked() -> None:
    """Fail closed where it matters, and nowhere else."""
    serving = await worker(LOCAL_WAYPOINT, READERS)
    unread = serving.check(source_principal=FRONTEND, source_certificate="-----BEGIN%20NOTHING")
    refused = (await revoking_worker()).check(source_principal=FRONTEND, source_certificate="-----BEGIN%20NOTHING")

    assert unread.decision.allowed
    assert Reason.MALFORMED is refused.decision.reason


async def test_a_snapshot_without_the_part_revokes_nothing_any_more() -> None:
    """The part disappears with the last revoked certificate."""
    serving = await revoking_worker()
    serving.publisher._revoked = Worker().publisher._revoked
    await serving.reload()
    assert serving.check(source_principal=FRONTEND, source_certificate=as_envoy_sends(SVID)).decision.allowed
