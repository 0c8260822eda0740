"""TLS 1.3 only, for every gRPC listener and client of this process.

gRPC's Python API cannot say "TLS 1.3 only", but its TLS 1.2 cipher suites come from an environment variable that the
library reads once, when it is loaded. It is set here to one suite that needs an RSA certificate: ours all have elliptic
curve keys, so a TLS 1.2 handshake finds no suite in common and is refused. TLS 1.3 suites are not governed by it.

The `app` package imports this module before anything else, so whatever of ours is imported first, gRPC comes later.
"""

from __future__ import annotations

import os
import sys

CIPHER_SUITES_VARIABLE = "GRPC_SSL_CIPHER_SUITES"
NO_SUITE_FOR_EC_CERTIFICATES = "ECDHE-RSA-AES256-GCM-SHA384"

_was_set = os.environ.get(CIPHER_SUITES_VARIABLE) == NO_SUITE_FOR_EC_CERTIFICATES
IN_EFFECT = _was_set or "grpc" not in sys.modules
os.environ[CIPHER_SUITES_VARIABLE] = NO_SUITE_FOR_EC_CERTIFICATES
