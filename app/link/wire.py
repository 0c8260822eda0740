"""What both ends of the link must agree on."""

from __future__ import annotations

SIGNATURE_HEADER = "gatehouse-signature"
MAX_MANIFEST_BYTES = 1_048_576  # 513 parts make 75 KB
MAX_STATUS_BYTES = 65_536
MAX_CHECKPOINT_BYTES = 8_192  # a signed note of some 250, with room for signatures of witnesses
MAX_CSR_BODY_BYTES = 32_768
MAX_CHAIN_BYTES = 262_144
MAX_PROBLEM_BYTES = 65_536
