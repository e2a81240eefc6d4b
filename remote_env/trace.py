"""One-line traces of the client's parts, on stderr: REMOTE_ENV_DEBUG=transport,delivery,stream,heartbeat, or `all`.

A trace names ids, paths, sizes, times, states. Never a token, a variable's value, standard input, output, or the text of a
command: what is traced may be pasted into a bug report.
"""

from __future__ import annotations

import logging
import os

PARTS = ("transport", "delivery", "stream", "heartbeat")
VARIABLE = "REMOTE_ENV_DEBUG"
_EVERYTHING = ("all", "1", "true", "yes", "on")
_NOTHING = ("", "0", "false", "no", "off")

log = logging.getLogger("remote_env")
_loggers = {part: logging.getLogger(f"remote_env.{part}") for part in PARTS}
_on: frozenset[str] = frozenset()
_setting = ""
_handler: logging.Handler | None = None


def trace(part: str, message: str, *values: object) -> None:
    """One line, where the part is traced; else nothing, not even formatted. `values` go into `message` as `%` does."""
    if part in _on:
        _loggers[part].debug(message, *values)


def tracing(part: str) -> bool:
    """Whether the part is traced: asked before anything costly is made for a trace."""
    return part in _on


def enable_traces(setting: str | None = None) -> None:
    """Traces from now on what the setting names, and nothing else; None: REMOTE_ENV_DEBUG. An unknown part is warned of.

    What the client logs otherwise (level INFO and above) goes to stderr, too, while anything is traced.
    """
    global _on, _setting, _handler
    if setting is None:
        setting = os.environ.get(VARIABLE, "")
    in_place = _handler is None or _handler in log.handlers
    if setting == _setting and in_place:
        return
    _setting = setting
    words = [word for word in (part.strip().lower() for part in setting.split(",")) if word not in _NOTHING]
    unknown = [word for word in words if word not in PARTS and word not in _EVERYTHING]
    _on = frozenset(PARTS if any(word in _EVERYTHING for word in words) else [word for word in words if word in PARTS])
    if _handler is not None:
        log.removeHandler(_handler)
        _handler = None
    if _on:
        _handler = logging.StreamHandler()
        _handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s[%(process)d %(threadName)s]: %(message)s"))
        log.addHandler(_handler)
        if log.getEffectiveLevel() > logging.INFO:
            log.setLevel(logging.INFO)
    for part, logger in _loggers.items():
        logger.setLevel(logging.DEBUG if part in _on else logging.NOTSET)
    if unknown:
        log.warning("%s: no such part: %s. The parts are %s; `all` is all of them.", VARIABLE, ", ".join(unknown), ", ".join(PARTS))
