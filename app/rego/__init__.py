"""Rego: rules that Istio's language has no words for, evaluated here in a child process or asked of an OPA server."""
