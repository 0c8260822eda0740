"""Starts, watches, replaces and drains the processes of one host. Holds no gRPC state and no keys."""
