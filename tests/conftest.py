"""Owns what all tests share: how hypothesis behaves on a busy machine."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Time says nothing about correctness here: a loaded machine must not fail a property.
settings.register_profile("shikaku", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shikaku")
