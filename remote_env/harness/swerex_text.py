"""The bytes of an output as the text that SWE-ReX hands on."""

from __future__ import annotations

import io

from remote_env.protocol import Output


def shown(data: bytes, output: Output) -> str:
    """As UTF-8; what is not, in backslashes, as SWE-ReX has it. `data` are the kept bytes; where the limit of an output has left out
    some between them, a line in their place says how many: output is never cut without a word."""
    if output.gap is None:
        return decoded(data)
    start, end = output.gap
    return f"{decoded(data[:start])}\n[{end - start} bytes of output left out here: the limit was reached]\n{decoded(data[start:])}"


def decoded(data: bytes) -> str:
    """As UTF-8, with what is not in backslashes."""
    return data.decode("utf-8", "backslashreplace")


def terminal_text(text: str) -> str:
    r"""What a program wrote, of what its terminal passed on: the terminal made \r\n of each \n."""
    return text.replace("\r\n", "\n")


def read_as_text(data: bytes, encoding: str | None, errors: str | None) -> str:
    r"""As `Path.read_text` reads a file: \r\n and \r are line ends, too. Raises UnicodeDecodeError, LookupError."""
    with io.TextIOWrapper(io.BytesIO(data), encoding=encoding or "utf-8", errors=errors) as text:
        return text.read()
