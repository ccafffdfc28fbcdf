"""Pictures and videos of results: the one outbound fetcher for links from payloads, and the folder that keeps them."""

from receiver.media.addresses import is_public
from receiver.media.fetcher import Fetcher
from receiver.media.kinds import sniff
from receiver.media.store import MediaStore
from receiver.media.tiles import Tiles

__all__ = ["Fetcher", "MediaStore", "Tiles", "is_public", "sniff"]
