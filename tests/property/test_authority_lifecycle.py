"""A machine of all that can happen to authorities: no order of allowed steps cuts anybody off."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.ca.lifecycle import (
    IN_BUNDLE,
    Allowed,
    AuthorityRole,
    AuthorityState,
    Blocked,
    Coverage,
    Fleet,
    Member,
    Replica,
    Rules,
    Step,
    judge,
)
from app.ca.lifecycle_chores import due_chore

START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
RULES = Rules(longest_life=10 * MINUTE, settle=2 * MINUTE, lease=20 * MINUTE)
SLOWEST_JOB = MINUTE  # below RULES.settle, as the settings demand
PEER, ISSUING, ROOT = AuthorityRole.PEER, AuthorityRole.ISSUING, AuthorityRole.ROOT
NODES = ("a", "b", "c")


@dataclass(frozen=True)
class Leaf:
    """A certificate: who holds it, who signed it under which root, with which bundle, until when."""

    node: str
    signer: str
    root: str
    bundle: frozenset[str]
    ends: datetime


@dataclass
class Begun:
    """A certificate that is being issued by the state of a moment ago."""

    leaf: Leaf
    began: datetime


class Mesh(RuleBasedStateMachine):
    """Authorities, two replicas that follow late, and nodes that renew whenever they like.

    What a node holds is known here exactly; the rules only see what the ledger would say. Handshakes are judged by
    the truth.
    """

    @initialize()
    def first(self) -> None:
        self.now = START
        self.epoch = 1
        self.members: dict[str, Member] = {}
        self.held: dict[str, Leaf] = {}  # what a node presents and believes
        self.recorded: list[Leaf] = []
        self.begun: list[Begun] = []
        self.made = 0
        self.reported = {"one": (1, START), "two": (1, START)}
        root, issuing = self._make(AuthorityState.ACTIVE)
        self.taken_over = dict.fromkeys(self.reported, (1, issuing, frozenset({root})))

    # What people and chores do

    @rule()
    def prepare_root(self) -> None:
        if len(self.members) < 12:
            self._make(AuthorityState.PREPARED)
            self._changed()

    @precondition(lambda self: self._fleet().active() is not None)
    @rule()
    def prepare_issuing(self) -> None:
        active = self._fleet().active()
        assert active is not None
        if len(self.members) < 12:
            self._add_issuing(active.root_id, AuthorityState.PREPARED)
            self._changed()

    @rule(step=st.sampled_from(Step), index=st.integers(0, 11))
    def do_step(self, step: Step, index: int) -> None:
        if index >= len(self.members):
            return
        authority = sorted(self.members)[index]
        verdict = judge(step, authority, self._fleet(), RULES, self.now)
        if isinstance(verdict, Allowed):
            self._apply(verdict)
        else:
            assert isinstance(verdict, Blocked)
            assert verdict.reason
            assert verdict.do

    @rule(step=st.sampled_from((Step.ACTIVATE, Step.REMOVE)))
    def do_what_a_rotation_needs(self, step: Step) -> None:
        """The step for the first authority of which it may be."""
        states = {Step.ACTIVATE: AuthorityState.PREPARED, Step.REMOVE: AuthorityState.RETIRING}
        for one in list(self.members.values()):
            if one.state is states[step] and isinstance(
                verdict := judge(step, one.id, self._fleet(), RULES, self.now), Allowed
            ):
                self._apply(verdict)
                return

    @rule(
        first=st.sampled_from((*NODES, "", "")),
        late=st.sampled_from(("one", "two", "")),
        pause=st.sampled_from((30, 120)),
    )
    def rotate_in_haste(self, first: str, late: str, pause: int) -> None:
        """A whole rotation as an impatient administrator would try it, while nodes renew and a replica lags."""
        if len(self.members) >= 10:
            return
        if first:
            self.issue("one", first, 10)
        self.begin_to_issue("two", NODES[0], 10)
        self._make(AuthorityState.PREPARED)
        self._changed()
        for replica in {"one", "two"} - {late}:
            self.follow(replica)
        self.pass_time(pause)
        self.do_what_a_rotation_needs(Step.ACTIVATE)
        self.finish_to_issue(0)
        self.follow("one")
        self.issue("one", NODES[1], 10)
        self.issue("two", NODES[2], 10)
        self.everybody_believes_everybody()

    @rule(slow=st.booleans(), pause=st.sampled_from((30, 120, 600)))
    def remove_in_haste(self, slow: bool, pause: int) -> None:
        """What retires is removed as soon as that is allowed, while certificates of it are being issued."""
        if slow:
            self.begin_to_issue("two", NODES[0], 10)
        self.do_what_a_rotation_needs(Step.ACTIVATE)
        self.follow_both()
        self.pass_time(pause)
        self.do_what_a_rotation_needs(Step.REMOVE)
        self.do_what_a_rotation_needs(Step.REMOVE)
        self.finish_to_issue(0)
        self.no_needed_root_has_left()

    @rule()
    def do_chores(self) -> None:
        for _ in range(4):
            due = due_chore(
                self._fleet(), RULES, self.now, prepare_at=0.5, can_prepare=False, automatic=list(self.members)
            )
            if due is None:
                return
            verdict = judge(Step(due.chore.value), due.authority_id, self._fleet(), RULES, self.now)
            assert isinstance(verdict, Allowed)
            self._apply(verdict)

    # What replicas and nodes do

    @rule(replica=st.sampled_from(("one", "two")))
    def follow(self, replica: str) -> None:
        active = self._fleet().active()
        self.taken_over[replica] = (self.epoch, active.id if active else "", self._bundle())
        self.reported[replica] = (self.epoch, self.now)

    @rule()
    def follow_both(self) -> None:
        self.follow("one")
        self.follow("two")

    @rule(replica=st.sampled_from(("one", "two")), node=st.sampled_from(NODES), minutes=st.sampled_from((3, 10)))
    def issue(self, replica: str, node: str, minutes: int) -> None:
        before = len(self.begun)
        self.begin_to_issue(replica, node, minutes)
        if len(self.begun) > before:
            self.finish_to_issue(before)

    @rule(replica=st.sampled_from(("one", "two")), node=st.sampled_from(NODES), minutes=st.sampled_from((3, 10)))
    def begin_to_issue(self, replica: str, node: str, minutes: int) -> None:
        _, signer, bundle = self.taken_over[replica]
        if self.now >= self.reported[replica][1] + RULES.lease or not signer:
            return  # its signer refuses
        root = self.members[signer].root_id
        leaf = Leaf(node, signer, root, bundle, self.now + minutes * MINUTE)
        self.begun.append(Begun(leaf, self.now))

    @rule(index=st.integers(0, 1))
    def finish_to_issue(self, index: int) -> None:
        """It is recorded and answered; it was signed when it was begun, and nobody asks again after that."""
        if index >= len(self.begun):
            return
        leaf = self.begun.pop(index).leaf
        self.recorded.append(leaf)
        self.held[leaf.node] = leaf

    @rule(seconds=st.sampled_from((30, 120, 600)))
    def pass_time(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        self.begun = [one for one in self.begun if self.now - one.began < SLOWEST_JOB]
        self.held = {node: leaf for node, leaf in self.held.items() if leaf.ends > self.now}

    # What must hold

    @invariant()
    def everybody_believes_everybody(self) -> None:
        """Any two nodes with unexpired certificates can meet."""
        for one in self.held.values():
            for other in self.held.values():
                assert other.root in one.bundle, (one, other)

    @invariant()
    def no_needed_root_has_left(self) -> None:
        for leaf in self.recorded:
            if leaf.ends > self.now:
                assert leaf.root in self._bundle(), leaf

    @invariant()
    def one_signs_under_an_active_root(self) -> None:
        active = [one for one in self.members.values() if one.state is AuthorityState.ACTIVE]
        assert [ISSUING, ROOT] == sorted(one.role for one in active)
        (issuing,) = (one for one in active if one.role is ISSUING)
        assert AuthorityState.ACTIVE is self.members[issuing.root_id].state

    def _make(self, state: AuthorityState) -> tuple[str, str]:
        self.made += 1
        root = f"r{self.made}"
        self.members[root] = Member(
            id=root,
            role=ROOT,
            state=state,
            since=self.now,
            trusted_since=self.now,
            created_at=self.now,
            not_before=self.now,
            not_after=self.now + timedelta(days=365),
        )
        return root, self._add_issuing(root, state)

    def _add_issuing(self, root: str, state: AuthorityState) -> str:
        self.made += 1
        issuing = f"i{self.made}"
        self.members[issuing] = replace(
            self.members[root],
            id=issuing,
            role=ISSUING,
            state=state,
            root_id=root,
            since=self.now,
            trusted_since=self.now,
            has_key=True,
        )
        return issuing

    def _apply(self, verdict: Allowed) -> None:
        for authority, state in verdict.changes.items():
            self.members[authority] = replace(self.members[authority], state=state, since=self.now)
        self._changed()

    def _changed(self) -> None:
        self.epoch += 1

    def _bundle(self) -> frozenset[str]:
        return frozenset(one.id for one in self.members.values() if one.role is ROOT and one.state in IN_BUNDLE)

    def _fleet(self) -> Fleet:
        """As the ledger would show it: by what is recorded, newest first."""
        newest: dict[str, Leaf] = {}
        for leaf in self.recorded:
            newest[leaf.node] = leaf
        holders = [leaf for leaf in newest.values() if leaf.ends > self.now]
        coverage = {}
        for root in self._bundle():
            missing = [leaf.ends for leaf in holders if root not in leaf.bundle]
            coverage[root] = Coverage(
                holders=len(holders), covered=len(holders) - len(missing), until=max(missing, default=None)
            )
        ends: dict[str, datetime] = {}
        for leaf in self.recorded:
            if leaf.ends > self.now:
                ends[leaf.signer] = max(leaf.ends, ends.get(leaf.signer, leaf.ends))
        return Fleet(
            members={name: replace(one, needed_until=ends.get(name)) for name, one in self.members.items()},
            coverage=coverage,
            replicas=tuple(
                Replica(id=name, epoch=epoch, seen_at=seen) for name, (epoch, seen) in self.reported.items()
            ),
            epoch=self.epoch,
        )


Mesh.TestCase.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
TestMesh = Mesh.TestCase
