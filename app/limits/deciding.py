"""Bounds of policies and of decisions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLimits:
    """Bounds of policy documents, the same when they are written and when they are loaded."""

    max_document_bytes: int = 262_144
    max_documents: int = 200_000
    max_rules: int = 512
    max_items: int = 512  # entries of one list in a rule
    max_value_chars: int = 1_024
    max_target_refs: int = 16
    max_nesting: int = 32
    max_yaml_nodes: int = 200_000
    max_batch_documents: int = 20_000
    max_readings: int = 64  # of one request under hardened matching
    max_page_items: int = 1_000
    max_page_bytes: int = 16_777_216  # documents of one page; it ends after the one that passes this
    max_reason_chars: int = 1_024
    max_lint_comparisons: int = 500_000  # of two rules of a few values, while looking for shadowed ones
    max_lint_findings: int = 1_000
    # Questions about all requests (who-can, what-can, diff); over a bound is an error, never a part of the answer.
    max_atom_states: int = 200_000  # walked to tell the values of one field apart
    max_atoms: int = 20_000  # of one field
    max_question_steps: int = 2_000_000  # rules followed from one field to the next, at one target
    max_question_classes: int = 5_000  # of one answer
    max_question_targets: int = 10_000
    max_waiting_questions: int = 4  # behind the one that is being answered; lint and projection wait in the same line
    question_seconds: float = 25.0  # below http.request_budget_seconds; the child that answers is killed then
    question_memory_bytes: int = 2_147_483_648  # that the child may map, with the sets that it keeps
    question_start_seconds: float = 10.0
    max_grant_seconds: int = 30 * 86_400  # of a grant, from notBefore to expiresAt
    max_break_glass_seconds: int = 86_400
    max_listed_kept: int = 100  # documents that a rollback of the set left as they are


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimits:
    """Bounds of verifying tokens of end users, and of fetching the keys for it."""

    max_token_bytes: int = 16_384
    max_tokens: int = 8  # of one request, for one issuer
    max_rules_tried: int = 8  # rules of one issuer that one request is tried by, where it fails
    max_keys_tried: int = 8  # keys of one issuer that one signature is tried with, where no key id chooses
    max_nesting: int = 32  # of header and payload
    leeway_seconds: float = 60.0  # after exp and before nbf, as Envoy's jwt_authn allows
    cache_entries: int = 10_000  # verified tokens that a worker remembers
    cache_bytes: int = 16_777_216  # of all of them, as they were sent; their claims take up to twenty times as much
    key_set_entries: int = 1_024  # parsed key sets that a worker remembers
    max_output_header_bytes: int = 8_192  # a claim that is longer is not sent upstream
    max_hints: int = 64  # key sources that a worker asks to be fetched again, in one report
    max_sources: int = 256  # different places where keys are fetched
    max_jwks_bytes: int = 262_144
    fetch_seconds: float = 5.0  # of one fetch, where a rule does not say less
    max_fetches: int = 8  # at once
    refresh_seconds: float = 300.0
    retry_seconds: float = 30.0  # after a failed fetch
    min_refetch_seconds: float = 10.0  # between two fetches from one place, whatever workers ask for
    stale_seconds: float = 86_400.0  # how long keys serve that cannot be refreshed


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckLimits:
    """Bounds of the decision worker."""

    max_queue_seconds: float = 0.1  # Checks that wait for longer, and for no short while, are denied as OVERLOADED
    max_path_bytes: int = 65_536
    max_header_count: int = 1_000
    max_header_bytes: int = 131_072
    max_body_bytes: int = 1_048_576  # that the proxy sent; check_grpc.max_message_bytes stays above it
    provider_budget_seconds: float = 0.14  # from a Check's arrival until providers must have answered
    max_provider_questions: int = 256  # in flight; a Check that would need more is denied as OVERLOADED
    max_snapshot_bytes: int = 1_073_741_824
    max_part_bytes: int = 67_108_864
    compile_slice_seconds: float = 0.003
    stale_after_seconds: float = 300.0  # serve and raise an alarm
    deny_after_seconds: float = 0.0  # 0: never deny for age; else SNAPSHOT_TOO_OLD
    long_poll_seconds: float = 25.0
    status_interval_seconds: float = 1.0
    link_timeout_seconds: float = 5.0
    link_backoff_max_seconds: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectLimits:
    """Bounds of what one answer to a Check may do besides allowing or denying."""

    max_items: int = 64  # headers and query parameters together
    max_bytes: int = 32_768  # of all of it: names, values, body and metadata, counted in characters
    max_metadata_depth: int = 16  # levels of the dynamic metadata; Envoy reads no message deeper than 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RegoLimits:
    """Bounds of Rego modules, of the child process that runs them, and of an OPA server that is asked instead."""

    max_module_bytes: int = 131_072  # the text of one module
    max_modules: int = 1_000  # of a set
    max_findings: int = 20  # of one check of modules
    max_input_bytes: int = 1_500_000  # the input document as JSON: the largest CheckRequest and what is parsed from it
    max_input_fields: int = 1_000  # query parameters, form fields or parts of one request
    max_body_nesting: int = 32
    max_result_bytes: int = 262_144  # the value of a rule as JSON
    memory_bytes: int = 536_870_912  # address space that a child may take after its start, and what may be resident
    start_seconds: float = 10.0  # until a child has loaded its library and given up its rights
    load_seconds: float = 10.0  # to compile all modules of a set
    evaluate_seconds: float = 0.1  # of one rule; a child that takes longer is killed
    max_rules_compiled: int = 256  # rules asked for of one selection of modules, each compiled once and kept
    max_selections: int = 64  # of modules, by providers, that one child holds
    max_waiting: int = 256  # questions that wait for the child or for a connection to OPA
    child_restart_burst: int = 5
    child_restart_window_seconds: float = 60.0  # more restarts than the burst in the window: nothing is evaluated
    opa_connections: int = 4  # kept alive, of one worker to one OPA server
    opa_connect_seconds: float = 1.0
    opa_administration_seconds: float = 5.0
    bundle_wait_seconds: float = 20.0  # longest poll of an OPA for its next bundle, below http.request_budget_seconds
    max_bundle_bytes: int = 67_108_864  # unpacked
