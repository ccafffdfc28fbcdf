"""Pictures and videos of results: the outbound fetcher for links from payloads, and the store that keeps the files."""

from receiver.media.fetcher import Fetcher
from receiver.media.files import sniff
from receiver.media.links import is_public
from receiver.media.store import MediaStore, Store, open_store
from receiver.media.tiles import Thumbnails, Tiles

__all__ = ["Fetcher", "MediaStore", "Store", "Thumbnails", "Tiles", "is_public", "open_store", "sniff"]
