"""Unit tests are many and should take under a minute together."""

import sys

from hypothesis import settings

settings.register_profile("unit", max_examples=40)  # fewer examples of a property than usual
settings.load_profile("unit")

# TRL imports vLLM wherever it is installed, which takes each worker seconds; no unit test needs it
sys.modules["vllm"] = None  # pyright: ignore[reportArgumentType]
