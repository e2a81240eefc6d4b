"""One invocation of `remote-env`: what all commands share. Where the server is, how to answer, what to do with errors."""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from remote_env.cli import screen
from remote_env.cli.codes import FAILED, INTERRUPTED, LOST_OR_UNKNOWN, STDOUT_CLOSED, USAGE

if TYPE_CHECKING:
    from remote_env.client import Client

DEBUG_VARIABLE = "REMOTE_ENV_DEBUG"

Url = Annotated[str | None, typer.Option("--url", metavar="URL", help="The server. [env: REMOTE_ENV_URL; default: http://127.0.0.1:9527]")]
TokenFile = Annotated[
    str | None,
    typer.Option("--token-file", metavar="PATH", help="File with its token. [env: REMOTE_ENV_TOKEN_FILE; default: a local server's own]"),
]
AsJson = Annotated[bool, typer.Option("--json", envvar="REMOTE_ENV_JSON", show_envvar=False, help="Answer in JSON. [env: REMOTE_ENV_JSON]")]
_SHARED: dict[str, tuple[Any, Any]] = {"url": (Url, None), "token_file": (TokenFile, None), "as_json": (AsJson, False)}

Function = TypeVar("Function", bound=Callable[..., int | None])


class Command(TyperCommand):
    """Shows its arguments in the usage line alone, as they are written."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[OPTIONS]", *(str(each.metavar) for each in self.params if each.param_type_name == "argument")]


@dataclass(frozen=True)
class Invocation:
    url: str | None = None
    token_file: str | None = None
    as_json: bool = False

    def client(self, *, run_id: str | None = None) -> Client:
        """A client of the server that was named. Raises InvalidSpec."""
        from remote_env.cli.troubles import tell_troubles
        from remote_env.client import Client

        tell_troubles()
        # Not given here, both are looked for in the environment by the client: REMOTE_ENV_TOKEN, too, which no option may hold.
        return Client(self.url, token_file=self.token_file, run_id=run_id)


def command(
    app: typer.Typer, name: str, *, cls: type[TyperCommand] = Command, runs_commands: bool = False
) -> Callable[[Function], Function]:
    """Registers `function(invocation, **options) -> exit code` as a command, adds the options that all commands have, and
    turns errors into a line and an exit code. `runs_commands`: with the exit codes of `run` and `exec`."""

    def decorate(function: Function) -> Function:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

        def call(ctx: typer.Context, *, url: str | None, token_file: str | None, as_json: bool, **options: Any) -> None:
            before: Invocation = ctx.obj or Invocation()
            invocation = replace(
                before, url=url or before.url, token_file=token_file or before.token_file, as_json=as_json or before.as_json
            )
            raise typer.Exit(_guarded(invocation, lambda: function(invocation, **options), runs_commands))

        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [inspect.Parameter("ctx", keyword, annotation=typer.Context)]
        parameters += [parameter.replace(kind=keyword) for parameter in own]
        parameters += [inspect.Parameter(each, keyword, default=default, annotation=kind) for each, (kind, default) in _SHARED.items()]
        # Typer reads a command's options off its signature.
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, cls=cls, help=inspect.getdoc(function), context_settings={"max_content_width": 100})(call)
        return function

    return decorate


def _guarded(invocation: Invocation, action: Callable[[], int | None], runs_commands: bool) -> int:
    from remote_env.cli import failures
    from remote_env.errors import InvalidSpec, RemoteEnvError

    try:
        return action() or 0
    except RemoteEnvError as error:
        code = failures.error_code(error) if runs_commands else USAGE if isinstance(error, InvalidSpec) else FAILED
        screen.complain(str(error))
        _tell_json(invocation, failures.error_document(error, code))
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return STDOUT_CLOSED  # whoever read our output has gone
    except screen.NotWritten as error:
        screen.complain(f"the output could not be written: {error.strerror}")
        return LOST_OR_UNKNOWN if runs_commands else FAILED
    except Exception as error:
        if is_usage_error(error) or isinstance(error, (typer.Exit, typer.Abort)):
            raise
        code = LOST_OR_UNKNOWN if runs_commands else FAILED
        unexpected(error)
        _tell_json(invocation, failures.error_of(type(error).__name__, str(error), code))
        return code


def _tell_json(invocation: Invocation, document: dict[str, Any]) -> None:
    """An error's own document. Where nobody reads it, the exit code still tells of the error and not of that."""
    if invocation.as_json:
        with suppress(BrokenPipeError, screen.NotWritten):
            screen.print_json(document)


def unexpected(error: BaseException) -> None:
    """An error of ours: one line, and how to see more."""
    if os.environ.get(DEBUG_VARIABLE, "") not in ("", "0"):
        traceback.print_exception(type(error), error, error.__traceback__)
    screen.complain(f"unexpected error: {type(error).__name__}: {error} (set {DEBUG_VARIABLE}=1 to see where)")


def is_usage_error(error: BaseException) -> bool:
    """Whether it is one of the argument parser's own. Newer typers carry that parser within, older ones import click's; only
    the shape of its errors is the same."""
    return hasattr(error, "format_message") and hasattr(error, "ctx")


def parsed(option: str, parse: Callable[[Any], Any], value: Any) -> Any:
    """`parse(value)`, None for None. Raises a usage error that names the option."""
    if value is None:
        return None
    try:
        return parse(value)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
