"""Text of unknown origin, made fit for a terminal."""


def printable(text: str) -> str:
    """Text with its control characters made visible, so that what a model writes cannot steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)
