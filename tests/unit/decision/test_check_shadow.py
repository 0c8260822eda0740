"""A Check at a target where policies are tried out: the decision is the enforced one, the verdict stands beside it."""

from typing import Any

from google.protobuf.json_format import MessageToDict

from app.decision import counters
from app.decision.attributes import CheckAnswer
from app.policy.shadow import SAME, Outlook
from app.rpc.check_answers import check_response
from tests.support.decisions import FRONTEND, LOCAL_WAYPOINT, READERS, REPORTS, SERVICE_REF, worker, xfcc
from tests.support.snapshots import policy

NO_READERS = policy("no-readers", targetRefs=[SERVICE_REF], action="DENY", rules=[{}])
NO_READERS["metadata"]["annotations"] = {"gatehouse.dev/mode": "shadow"}


def metadata_of(answer: CheckAnswer) -> dict[str, Any]:
    """The dynamic metadata that Envoy gets."""
    found: dict[str, Any] = MessageToDict(check_response(answer, "id").dynamic_metadata)
    return found


async def test_the_verdict_stands_beside_the_decision_and_is_counted() -> None:
    """The frontend passes and would not; reports do not and would not either."""
    serving = await worker(LOCAL_WAYPOINT, READERS, NO_READERS)

    frontend, reports = serving.check(headers=xfcc(FRONTEND)), serving.check(headers=xfcc(REPORTS))

    assert frontend.decision.allowed
    assert frontend.shadow is not None
    assert (Outlook.WOULD_DENY, "shop/no-readers") == (frontend.shadow.outlook, frontend.shadow.policy)
    assert SAME is reports.shadow
    assert {"would_deny": {"shop/no-readers": 1}, "same": {"": 1}} == serving.service.counters.to_json()["shadow"]
    assert {
        "shadow": "would_deny",
        "shadow_policy": "shop/no-readers",
        "shadow_rule": "ns[shop]-policy[no-readers]-rule[0]",
    } == {key: value for key, value in metadata_of(frontend).items() if key.startswith("shadow")}


async def test_where_nothing_is_tried_out_the_answer_has_no_verdict() -> None:
    """Neither in the answer nor in the metadata; nor when it was denied before any policy."""
    plain = await worker(LOCAL_WAYPOINT, READERS)
    tried = await worker(LOCAL_WAYPOINT, READERS, NO_READERS)
    answers = [plain.check(headers=xfcc(FRONTEND)), tried.check()]

    assert [None, None] == [answer.shadow for answer in answers]
    assert not any(key.startswith("shadow") for answer in answers for key in metadata_of(answer))


def test_policies_are_counted_by_name_up_to_a_bound() -> None:
    """Those that come up later are counted together, so that names cannot fill the memory or the metrics."""
    counted: dict[tuple[str, str], int] = {}
    for number in range(counters.MAX_NAMED + 3):
        counters.count_named(counted, ("x", str(number)), ("x", ""))

    assert (3, counters.MAX_NAMED + 1) == (counted["x", ""], len(counted))
