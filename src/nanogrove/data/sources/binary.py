"""What a file that is not text is, by its first bytes, so that an error can name it."""

from nanogrove.data.sources.encodings import START_BYTES, marked_encoding, wide_encoding

MAX_CONTROLS_SHARE = 0.05  # of the bytes of a text
TEXT_CONTROLS = b"\t\n\r\f\v\a\b\x1a\x1b"
TAR_MARK, TAR_MARK_AT = b"ustar", 257
BINARY = {  # first bytes of files that no source reads
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"\x00\x05\x16\x07": "what macOS keeps beside a file (AppleDouble)",
    b"PK": "a ZIP archive",
    b"\x1f\x8b": "packed by gzip twice; unpack it once",
    b"\x28\xb5\x2f\xfd": "packed by zstd twice; unpack it once",
    b"BZh": "packed by bzip2 twice; unpack it once",
    b"\xfd7zXZ": "packed by xz twice; unpack it once",
    b"7z\xbc\xaf": "a 7z archive; unpack it, and name what it holds",
    b"Rar!": "a RAR archive; unpack it, and name what it holds",
    b"\x7fELF": "a program",
    b"SQLite format 3": "an SQLite database",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"\x80": "a Python pickle",
    b"\xd0\xcf\x11\xe0": "an old Office file; save it as plain text",
    b"ARROW1": "an Arrow file",
    b"PAR1": "Parquet",
    b"%PDF-": "PDF",
    b"RIFF": "sound or video",
    b"OggS": "sound or video",
    b"ID3": "sound",
}


def binary(data: bytes) -> str | None:
    """What a file of these first bytes, that is not text, seems to be; None for text."""
    start = data[:START_BYTES]
    if marked_encoding(start) or wide_encoding(start):
        return None
    controls = sum(map(start.count, (bytes([c]) for c in range(32) if c not in TEXT_CONTROLS)))
    if b"\0" not in start and controls <= MAX_CONTROLS_SHARE * len(start):
        return None
    if start[TAR_MARK_AT:].startswith(TAR_MARK):
        return "a tar archive"
    return next((text for mark, text in BINARY.items() if start.startswith(mark)), "binary, of a kind not known here")
