"""Pictures and videos of results: the one outbound fetcher for links from payloads, and the store that keeps them, a
folder or a bucket."""

from receiver.media.addresses import is_public
from receiver.media.base import Store
from receiver.media.fetcher import Fetcher
from receiver.media.kinds import sniff
from receiver.media.opening import open_store
from receiver.media.store import MediaStore
from receiver.media.tiles import Tiles

__all__ = ["Fetcher", "MediaStore", "Store", "Tiles", "is_public", "open_store", "sniff"]
