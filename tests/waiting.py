"""How long tests wait for what should happen. It ends a test that hangs, and says nothing of how fast a machine is."""

PATIENCE = 120.0
"""Seconds."""
