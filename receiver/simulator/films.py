"""Small real videos: MP4 (ISO/IEC 14496-12) with H.264 (ITU-T H.264) whose pictures are sent as plain samples.

There is no encoder at hand and none is needed: a macroblock of type I_PCM is its 384 samples as they are. Every
player takes it; it is only large, so the pictures are small.
"""

import struct
from collections.abc import Iterable, Sequence

from PIL import Image

_BLOCK = 16
_RATE = 8
"""Pictures per second."""
FRAMES = 10


def film(still: Image.Image, motion: str) -> bytes:
    """The picture with a camera that moves slowly towards it, or, with ``high`` motion, along it."""
    size = _blocks(still.width / still.height)
    return mp4([_sliced(frame) for frame in _frames(still, size, motion)], size)


def _blocks(ratio: float, area: int = 64) -> tuple[int, int]:
    """Width and height in whole macroblocks, some 64 of them, in about the proportions wanted."""
    across = max(2, round((area * ratio) ** 0.5))
    return across * _BLOCK, max(2, round(area / across)) * _BLOCK


def _frames(still: Image.Image, size: tuple[int, int], motion: str) -> Iterable[Image.Image]:
    width, height = still.size
    for number in range(FRAMES):
        along = number / (FRAMES - 1)
        margin = 0.15 if motion == "high" else 0.12 * along
        shift = (2 * along - 1) * margin if motion == "high" else 0.0
        left, right = width * (margin + shift), width * (1 - margin + shift)
        yield still.resize(size, Image.Resampling.BILINEAR, box=(left, height * margin, right, height * (1 - margin)))


def _sliced(frame: Image.Image) -> bytes:
    """One picture as one slice of I_PCM macroblocks (H.264, 7.3.3, 7.3.5)."""
    luma, blue, red = frame.convert("YCbCr").split()
    half = (frame.width // 2, frame.height // 2)
    blue, red = blue.resize(half), red.resize(half)
    # first_mb 0, slice_type 7 (all I), pps 0, frame_num 0, idr_pic_id 0, two flags of 0, qp_delta 0, no deblocking.
    bits = _Bits().ue(0).ue(7).ue(0).bits(0, 4).ue(0).bits(0, 2).ue(0).ue(1)
    for top in range(0, frame.height, _BLOCK):
        for left in range(0, frame.width, _BLOCK):
            bits.ue(25).align(0)
            bits.raw(luma.crop((left, top, left + 16, top + 16)).tobytes())
            for plane in (blue, red):
                bits.raw(plane.crop((left // 2, top // 2, left // 2 + 8, top // 2 + 8)).tobytes())
    return _unit(0x65, bits)


class _Bits:
    """Bits one after the other, as H.264 writes them."""

    def __init__(self) -> None:
        self._done = bytearray()
        self._pending = ""

    def bits(self, value: int, count: int) -> "_Bits":
        """A number in so many bits."""
        self._pending += f"{value:0{count}b}"
        whole = len(self._pending) // 8 * 8
        self._done += bytes(int(self._pending[at : at + 8], 2) for at in range(0, whole, 8))
        self._pending = self._pending[whole:]
        return self

    def ue(self, value: int) -> "_Bits":
        """A number in Exp-Golomb code (H.264, 9.1)."""
        code = f"{value + 1:b}"
        return self.bits(value + 1, 2 * len(code) - 1)

    def align(self, bit: int) -> "_Bits":
        """Up to the next whole byte."""
        while self._pending:
            self.bits(bit, 1)
        return self

    def raw(self, content: bytes) -> "_Bits":
        """Whole bytes, at a whole byte."""
        self._done += content
        return self

    def closed(self) -> bytes:
        """All of it, with the stop bit."""
        return bytes(self.bits(1, 1).align(0)._done)


def _unit(header: int, bits: _Bits) -> bytes:
    """A NAL unit; nothing in it may look like the start of another (H.264, 7.4.1)."""
    guarded, zeros = bytearray((header,)), 0
    for byte in bits.closed():
        if zeros == 2 and byte <= 3:
            guarded.append(3)
            zeros = 0
        guarded.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(guarded)


def _parameters(size: tuple[int, int]) -> tuple[bytes, bytes]:
    """Sequence and picture parameter set: baseline, level 3.0, 4:2:0 (H.264, 7.3.2)."""
    sequence = _Bits().bits(66, 8).bits(0xC0, 8).bits(30, 8).ue(0).ue(0).ue(2).ue(1).bits(0, 1)
    sequence.ue(size[0] // _BLOCK - 1).ue(size[1] // _BLOCK - 1).bits(0b1100, 4)
    picture = _Bits().ue(0).ue(0).bits(0, 2).ue(0).ue(0).ue(0).bits(0, 3).ue(0).ue(0).ue(0).bits(0b100, 3)
    return _unit(0x67, sequence), _unit(0x68, picture)


def mp4(pictures: Sequence[bytes], size: tuple[int, int]) -> bytes:
    """Coded pictures as a file: ftyp, moov, mdat (ISO/IEC 14496-12)."""
    samples = [struct.pack(">I", len(picture)) + picture for picture in pictures]
    kind = _box(b"ftyp", b"isom", struct.pack(">I", 512), b"isomiso2avc1mp41")
    # The header holds the place of the samples, and its length does not depend on the number written there.
    start = len(kind) + len(_movie(samples, size, 0)) + 8
    return kind + _movie(samples, size, start) + _box(b"mdat", *samples)


_MATRIX = struct.pack(">9I", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)


def _movie(samples: Sequence[bytes], size: tuple[int, int], start: int) -> bytes:
    count = len(samples)
    length = count * 1000 // _RATE
    head = _full(
        b"mvhd",
        0,
        struct.pack(">4IIH10x", 0, 0, 1000, length, 1 << 16, 1 << 8),
        _MATRIX + bytes(24) + struct.pack(">I", 2),
    )
    track = _full(
        b"tkhd",
        3,
        struct.pack(">5I16x", 0, 0, 1, 0, length),
        _MATRIX + struct.pack(">2I", size[0] << 16, size[1] << 16),
    )
    media = _box(
        b"mdia",
        _full(b"mdhd", 0, struct.pack(">4IHH", 0, 0, _RATE, count, 0x55C4, 0)),
        _full(b"hdlr", 0, bytes(4), b"vide", bytes(12), b"VideoHandler\0"),
        _box(
            b"minf",
            _full(b"vmhd", 1, bytes(8)),
            _box(b"dinf", _full(b"dref", 0, struct.pack(">I", 1), _full(b"url ", 1))),
            _table(samples, size, start),
        ),
    )
    return _box(b"moov", head, _box(b"trak", track, media))


def _table(samples: Sequence[bytes], size: tuple[int, int], start: int) -> bytes:
    sequence, picture = _parameters(size)
    setup = _box(
        b"avcC",
        bytes((1, *sequence[1:4], 0xFF, 0xE1)),
        struct.pack(">H", len(sequence)) + sequence,
        struct.pack(">BH", 1, len(picture)) + picture,
    )
    look = struct.pack(">6xH16xHHIIIH32xHh", 1, *size, 72 << 16, 72 << 16, 0, 1, 24, -1)
    lengths = b"".join(struct.pack(">I", len(sample)) for sample in samples)
    count = len(samples)
    return _box(
        b"stbl",
        _full(b"stsd", 0, struct.pack(">I", 1), _box(b"avc1", look, setup)),
        _full(b"stts", 0, struct.pack(">3I", 1, count, 1)),
        _full(b"stsc", 0, struct.pack(">4I", 1, 1, count, 1)),
        _full(b"stsz", 0, struct.pack(">2I", 0, count), lengths),
        _full(b"stco", 0, struct.pack(">2I", 1, start)),
    )


def _box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I", 8 + len(content)) + kind + content


def _full(kind: bytes, flags: int, *parts: bytes) -> bytes:
    return _box(kind, struct.pack(">I", flags), *parts)
