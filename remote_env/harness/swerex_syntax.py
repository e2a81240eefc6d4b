"""Bash's own check of a command, before anything of it runs: a mistake in line three must not be found when line two has run."""

from __future__ import annotations

import re

from swerex.exceptions import BashIncorrectSyntaxError

from remote_env.harness.swerex_failures import without_result
from remote_env.harness.swerex_text import decoded
from remote_env.sandbox import Sandbox

_CHECK_S = 60.0

# One line of simple commands, in which no shell could find a mistake: words of plain characters, variables and quoted text, none of
# them reserved where a command begins. No two of the alternatives begin alike, so that what does not match is found out at once.
_VARIABLE = r"\$(?=[A-Za-z_])|\$\?"
_WORD = rf"""(?:[A-Za-z0-9_./:=@%+,~*?^-]|{_VARIABLE}|'[^'\n]*'|"(?:[^"\\$`!\n]|{_VARIABLE})*")+"""
_RESERVED = r"(?:case|coproc|do|done|elif|else|esac|fi|for|function|if|in|select|then|time|until|while)(?![^ \t;|&])"
_COMMAND = rf"(?!{_RESERVED}){_WORD}(?:[ \t]+(?:2>&1|{_WORD}))*"
_PLAIN = re.compile(rf"[ \t]*{_COMMAND}(?:[ \t]*(?:&&|\|\|?|;)[ \t]*{_COMMAND})*[ \t]*;?\s*")
_PLAIN_LENGTH = 4096


def check_syntax(sandbox: Sandbox, command: str) -> None:
    """Asks `bash -n` (`sh -n` where the image has no bash), unless the command is so plain that it need not be asked.

    Raises BashIncorrectSyntaxError, with the shell's own words in `extra_info`, and what `Sandbox.run` raises.
    """
    if is_plain(command):
        return
    for shell in ("bash", "sh"):
        # Reading it is all that the shell does: it may be asked again.
        execution = sandbox.run([shell, "-n"], stdin=f"{command}\n", streams="split", timeout_s=_CHECK_S, idempotent=True)
        outcome = execution.outcome
        if outcome is None or outcome.reason != "not_found":
            break
    if outcome is None or outcome.code is None:
        raise without_result(execution.record, shell, None)
    if outcome.code == 0:
        return
    stdout, stderr = decoded(execution.output()), decoded(execution.stderr())
    raise BashIncorrectSyntaxError(
        f"Error (exit code {outcome.code}) while checking bash command \n{command!r}\n"
        f"---- Stderr ----\n{stderr}\n---- Stdout ----\n{stdout}",
        extra_info={"bash_stdout": stdout, "bash_stderr": stderr},
    )


def is_plain(command: str) -> bool:
    """Whether it is one line of simple commands that no shell can find a mistake in. In doubt, False."""
    return len(command) <= _PLAIN_LENGTH and (not command.strip() or _PLAIN.fullmatch(command) is not None)
