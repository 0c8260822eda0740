"""Loaded before any test module: gRPC must find our TLS policy when a test imports it."""

import app

assert app.__version__
