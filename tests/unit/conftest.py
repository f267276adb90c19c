"""Unit tests are many and should take under a minute together."""

import atexit
import gc
import os
import sys

import pytest
from hypothesis import settings

settings.register_profile("unit", max_examples=40)  # fewer examples of a property than usual
settings.load_profile("unit")

# a worker for each core: more threads only wait for each other (read when numpy and torch are loaded)
os.environ.setdefault("OMP_NUM_THREADS", "1")

# what collection loads (torch, transformers, …) stays to the end: looking for garbage in it costs each worker seconds
gc.disable()
atexit.register(gc.unfreeze)  # the interpreter's own end takes everything apart, or extension modules tell of leaks

# TRL imports vLLM wherever it is installed, which takes each worker seconds; no unit test needs it
sys.modules["vllm"] = None  # pyright: ignore[reportArgumentType]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Collect garbage from here on, but not among what collection has loaded."""
    gc.freeze()
    gc.enable()
