"""What a person at a terminal types for us and not for the program: `~.` at the beginning of a line, as with ssh."""

from __future__ import annotations

_TILDE = 0x7E
_DOT = 0x2E
_LINE_ENDS = (0x0D, 0x0A)


class Escapes:
    """Goes through what is typed, in whatever pieces it comes.

    At the beginning of a line: `~.` detaches, `~~` is one tilde for the program. Any other tilde is the program's.
    """

    def __init__(self) -> None:
        self._at_line_start = True
        self._tilde = False  # one was typed at the beginning of a line, and nobody knows yet whose it is
        self.detached = False

    def feed(self, typed: bytes) -> bytes:
        """What of it is for the program. Nothing after `~.` is."""
        meant = bytearray()
        for byte in typed:
            if self.detached:
                break
            if self._tilde:
                self._tilde = False
                if byte == _DOT:
                    self.detached = True
                    break
                meant.append(_TILDE)
                if byte != _TILDE:
                    meant.append(byte)
            elif byte == _TILDE and self._at_line_start:
                self._tilde = True
            else:
                meant.append(byte)
            self._at_line_start = byte in _LINE_ENDS
        return bytes(meant)
