"""TLS 1.3 only, for every gRPC listener and client of this process.

gRPC's Python API cannot say "TLS 1.3 only", but its TLS 1.2 cipher suites come from an environment variable that the
library reads once, when the first TLS credentials are made. It is set here, on import, to one suite that needs an
RSA certificate: ours all have elliptic curve keys, so a TLS 1.2 handshake finds no suite in common and is refused.
TLS 1.3 suites are not governed by the variable.
"""

from __future__ import annotations

import os

CIPHER_SUITES_VARIABLE = "GRPC_SSL_CIPHER_SUITES"
NO_SUITE_FOR_EC_CERTIFICATES = "ECDHE-RSA-AES256-GCM-SHA384"

os.environ[CIPHER_SUITES_VARIABLE] = NO_SUITE_FOR_EC_CERTIFICATES
