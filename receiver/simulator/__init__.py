"""The provider, simulated: CometAPI's Midjourney API as an ASGI application.

Written from PROTOCOL.md alone, never from the provider client, so that each can prove the other wrong.
"""

from receiver.simulator.app import Simulator
from receiver.simulator.faults import FAULTS
from receiver.simulator.profiles import PROFILES

__all__ = ["FAULTS", "PROFILES", "Simulator"]
