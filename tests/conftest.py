"""What all tests share."""

import os
import socket

import pytest


def missing(reason: str) -> None:
    """Skip at a desk, fail in CI: there a prerequisite must be there."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
