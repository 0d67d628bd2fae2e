"""Text for a terminal, without what it would take for a command. Imports nothing: messages come before JAX is there."""

__all__ = ["printable"]


def printable(text: str) -> str:
    """The text with escapes for what is not printed, such as colours in the name of a file: the terminal would obey.

    Example:
      >>> printable("a\\x1b[31m.png")
      'a\\\\x1b[31m.png'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
