"""`remote-env serve`: the options are the rows of `server.settings.Settings`; the server itself is imported when it runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from server.settings import Setting

_HELP = """Run the server that sandboxes and commands live in.

A setting comes from its option, else from REMOTE_ENV_SERVER_NAME, else from a TOML file (--config or REMOTE_ENV_SERVER_CONFIG;
names with _ for -), else from its default. Sizes are written 512MiB or 2GiB, durations 30s, 5m or 24h; plain numbers are bytes
and seconds.
"""
_FAILED = 1
_USAGE = 2


def register(app: typer.Typer) -> None:
    """Add `serve` to the command line. Where the server's half cannot be imported, `serve` says why and how to mend it."""
    trouble = shadowed_by()
    if trouble is None:
        app.command("serve", cls=_PlainHelp, help=_HELP, context_settings={"max_content_width": 140})(_command())
    else:
        lenient = {"ignore_unknown_options": True, "allow_extra_args": True}
        app.command("serve", help=trouble, context_settings=lenient)(_explanation(trouble))


class _PlainHelp(TyperCommand):
    """Help in two plain columns: thirty rows with long names do not fit a table of boxes on a terminal of 80 columns."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "rich_markup_mode": None})


def _explanation(trouble: str) -> Callable[[], None]:
    def serve() -> None:
        typer.echo(trouble, err=True)
        raise typer.Exit(_FAILED)

    return serve


def _command() -> Callable[..., None]:
    from server.settings import rows

    def serve(**flags: object) -> None:
        raise typer.Exit(_serve(flags))

    # Typer reads options off the signature; ours has one parameter for each setting.
    serve.__signature__ = inspect.Signature([_config_option(), *map(_option, rows())])  # type: ignore[attr-defined]
    serve.__annotations__ = {}
    return serve


def shadowed_by() -> str | None:
    """What is wrong, and how to mend it, where `import server` does not give ours; None where it does."""
    try:
        import server
    except ImportError as error:
        return f"the server's half of remote-env cannot be imported ({error}): install remote-env again"
    if getattr(server, "REMOTE_ENV_SERVER", False):
        return None
    place = getattr(server, "__file__", None) or ", ".join(getattr(server, "__path__", ())) or "an unknown place"
    return (
        f"`import server` gives {place}, which is not remote-env's: start `remote-env serve` from another directory, take that one "
        "out of PYTHONPATH, or install remote-env into an environment of its own"
    )


def _serve(flags: dict[str, object]) -> int:
    from server.settings import SettingsError, load

    try:
        settings = load(flags)
        from server.main import serve
    except SettingsError as error:
        typer.echo(f"remote-env serve: {error}", err=True)
        return _USAGE
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("server", "remote_env"):
            raise
        typer.echo(f"remote-env serve needs {error.name}, which is not installed: pip install 'remote-env[server]'", err=True)
        return _FAILED
    return serve(settings)


def _config_option() -> inspect.Parameter:
    info = typer.Option(None, "--config", metavar="PATH", help="TOML file with settings. [env: REMOTE_ENV_SERVER_CONFIG]")
    return inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=info, annotation=str | None)


def _option(setting: Setting) -> inspect.Parameter:
    from server.units import SWITCH

    text = f"{setting.help} [default: {setting.default}; env: {setting.variable}]"
    annotation: Any = str | None
    metavar: str | None = setting.kind.metavar
    if setting.kind is SWITCH:
        annotation, metavar = bool | None, None
    elif setting.kind.repeatable:
        annotation = list[str] | None
        text += " May be repeated."
    info = typer.Option(None, setting.flag, metavar=metavar, help=text, show_default=False)
    return inspect.Parameter(setting.name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=annotation)
