"""Text of unknown origin, made fit for a terminal."""


def printable(text: str) -> str:
    """Text with its control characters made visible, so that what a model writes cannot steer a terminal.

    A byte of a file name that is not UTF-8, which Python keeps as half of a character, is shown as that byte.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{_code(c):02x}" for c in text)


def _code(character: str) -> int:
    code = ord(character)
    return code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code
