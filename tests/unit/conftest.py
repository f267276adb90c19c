"""Unit tests are many and should take under a minute together: properties are tried on fewer examples than usual."""

from hypothesis import settings

settings.register_profile("unit", max_examples=40)
settings.load_profile("unit")
