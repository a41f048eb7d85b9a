"""Who one is at a registry: from Docker's and Podman's files and credential helpers."""

from __future__ import annotations

from attrs import field, frozen


@frozen(kw_only=True)
class Credentials:
    """A user with a password, or with a token that stands for a log-in (`identity_token`)."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
