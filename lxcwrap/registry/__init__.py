"""Registries: the OCI distribution protocol, and what is pulled and pushed by it."""
