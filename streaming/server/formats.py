"""What a file is, by its first bytes, and which kinds of files a server takes."""

from __future__ import annotations

from omni.encoders.pictures import FORMATS, HEIF_BRANDS

PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
DEMUXERS = {
    "image": (),
    "audio": ("wav", "w64", "aiff", "caf", "au", "mp3", "aac", "amr", "ogg", "flac", "mov", "matroska"),
    "video": ("mov", "matroska"),
}
KINDS = {
    "image": "picture (GIF, BMP, TIFF, AVIF, PNG, JPEG or WEBP)",
    "audio": "sound (WAV, MP3, OGG, FLAC, AAC, AMR, AIFF, CAF, M4A, MP4 or WEBM)",
    "video": "video (MP4, MOV, WEBM or MKV)",
}
_STARTS = {
    b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF",
    b"OggS": "ogg", b"fLaC": "flac", b"\x1aE\xdf\xa3": "matroska", b"caff": "caf", b"riff.\x91\xcf\x11": "w64",
    b".snd": "au", b"#!AMR": "amr",
}  # fmt: skip


class FormatError(Exception):
    """A sentence on what a file is not."""


def format_of(kind: str, data: bytes) -> str:
    """The format of a picture ("image"), sound ("audio") or clip ("video"); FormatError for what is none."""
    found = container_of(data)
    if found == "mp3" and data[:3] == b"ID3" and kind == "audio":
        found = _behind_tag(data)
    if found is None or found not in (PICTURES if kind == "image" else DEMUXERS[kind]):
        raise FormatError(f"is no {KINDS[kind]}; convert it to one of these")
    if found == "HEIF" and "HEIF" not in FORMATS:
        raise FormatError("is a HEIC picture, which this server cannot read; save it as JPEG")
    return found


def container_of(data: bytes) -> str | None:
    """The format that the first bytes of a medium show, as Pillow or FFmpeg's demuxers call it; None for all others."""
    if data[4:8] == b"ftyp":
        return _brand(data)
    for start, name in _STARTS.items():
        if data.startswith(start):
            return name
    if data[:4] == b"RIFF":
        return {b"WAVE": "wav", b"WEBP": "WEBP"}.get(data[8:12])
    if data[:4] in (b"RF64", b"BW64") and data[8:12] == b"WAVE":
        return "wav"
    if data[:4] == b"FORM" and data[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if data[:3] == b"ID3":
        return "mp3"
    if len(data) > 1 and data[0] == 0xFF:  # of MPEG's frames those of layer 0 are bare AAC
        if data[1] & 0xF6 == 0xF0:
            return "aac"
        if data[1] & 0xE0 == 0xE0 and data[1] & 6:
            return "mp3"
    return None


def _brand(data: bytes) -> str:
    """What an ISO file is: a picture by its brands, or else one of sound or moving pictures."""
    size = min(int.from_bytes(data[:4]), 256)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, size, 4))]
    if brands[0] in (b"avif", b"avis") or (brands[0] in HEIF_BRANDS and b"avif" in brands):
        return "AVIF"
    return "HEIF" if brands[0] in HEIF_BRANDS else "mov"


def _behind_tag(data: bytes) -> str:
    """What stands behind an ID3 tag, which is put before bare AAC and FLAC as well."""
    size = 10 + sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(data[6:10]))
    found = container_of(data[size : size + 16])
    return found if found in ("aac", "flac") else "mp3"
