"""What a file is, by its first bytes. Neither its name nor its Content-Type counts: both are the sender's word."""

from __future__ import annotations

import re

HEAD = 512
"""Bytes that suffice to tell; the longest header read is an `ftyp` box with many brands."""

EXTENSIONS: tuple[str, ...] = (".png", ".jpg", ".gif", ".webp", ".avif", ".mp4", ".mov", ".webm")
"""Every extension `sniff` gives."""

_MAGIC: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png", ".png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg", ".jpg"),
    (re.compile(rb"GIF8[79]a"), "image/gif", ".gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp", ".webp"),
    # EBML header whose DocType element (0x4282, 4 bytes long) says webm; plain Matroska says "matroska".
    (re.compile(rb"\x1a\x45\xdf\xa3.{0,64}?\x42\x82\x84webm", re.DOTALL), "video/webm", ".webm"),
)
_BRANDS: tuple[tuple[frozenset[bytes], str, str], ...] = (
    (frozenset({b"avif", b"avis"}), "image/avif", ".avif"),
    (frozenset({b"qt  "}), "video/quicktime", ".mov"),
    (
        frozenset(
            {b"isom", b"iso2", b"iso3", b"iso4", b"iso5", b"iso6", b"iso7", b"iso8", b"iso9", b"mp41", b"mp42", b"mp71"}
            | {b"avc1", b"dash", b"MSNV", b"M4V ", b"M4VH", b"M4VP", b"f4v "}
        ),
        "video/mp4",
        ".mp4",
    ),
)
_LOOKS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"<(!doctype html|html|head|body|script|!--)", re.IGNORECASE), "HTML"),
    (re.compile(rb"(<\?xml[^>]*>\s*)?(<!doctype svg[^>]*>\s*)?<svg", re.IGNORECASE), "SVG"),
    (re.compile(rb"<\?xml", re.IGNORECASE), "XML"),
    (re.compile(rb'[{\[]\s*(["{\[\]}\d]|$)'), "JSON"),
    (re.compile(rb"\x1f\x8b"), "gzip"),
    (re.compile(rb"%PDF-"), "PDF"),
    (re.compile(rb"[\t\n\r\x20-\x7e]+\Z"), "plain text"),
)


def sniff(head: bytes) -> tuple[str, str] | None:
    """The (media type, extension) of a picture or video by its magic bytes; None for everything else."""
    for pattern, media_type, extension in _MAGIC:
        if pattern.match(head):
            return media_type, extension
    return _by_brand(head)


def _by_brand(head: bytes) -> tuple[str, str] | None:
    """The major brand decides; only if it says nothing to us, the compatible ones (ISO/IEC 14496-12, 4.3)."""
    if head[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(head[:4], "big"), len(head))
    compatible = {head[at : at + 4] for at in range(16, end - 3, 4)}
    for candidates in ({head[8:12]}, compatible):
        for brands, media_type, extension in _BRANDS:
            if candidates & brands:
                return media_type, extension
    return None


def looks_like(head: bytes) -> str:
    """What a person would call bytes that are no picture: "HTML", "JSON", "empty" …"""
    if not head:
        return "empty"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((name for pattern, name in _LOOKS if pattern.match(start)), "an unknown format")
