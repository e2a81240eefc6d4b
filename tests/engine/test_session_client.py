"""Sessions as a person sees them through Python: a shell that remembers, with exact exit codes and exact output."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from remote_env import (
    CommandFailed,
    Execution,
    InvalidSpec,
    OutputPiece,
    Sandbox,
    Session,
    SessionEnded,
    SessionNotOpened,
)
from tests.engine.conftest import MakeSandbox
from tests.support.outside import until
from tests.support.server import BUSYBOX, SANDBOX, SMALL, Server

OpenSession = Callable[..., Session]


@pytest.fixture
def session(debian: Sandbox) -> Iterator[Session]:
    with debian.session() as opened:
        yield opened


@pytest.fixture(params=["bash", "sh"])
def either(request: pytest.FixtureRequest, debian: Sandbox, shared: Sandbox) -> Iterator[Session]:
    """What every shell can: bash, and the sh of an image that has nothing else."""
    with (debian if request.param == "bash" else shared).session() as opened:
        yield opened


def said(execution: Execution) -> str:
    assert execution.returncode == 0, execution.output()
    return execution.text


# ------------------------------------------------------------------------------------------------- what it remembers


def test_directory_variables_functions_and_exported_ones_stay(either: Session) -> None:
    said(either.run("cd /usr && here=1 && export THERE=2"))
    said(either.run("greet() { echo hello $1; }"))
    assert said(either.run("pwd; echo $here; sh -c 'echo $THERE'; greet you")) == "/usr\n1\n2\nhello you\n"


def test_aliases_and_options_stay(session: Session) -> None:
    said(session.run("alias say='echo said'; shopt -s extglob; set -o pipefail"))
    assert said(session.run("say it; shopt extglob; set -o | grep pipefail")) == "said it\nextglob        \ton\npipefail       \ton\n"


def test_session_begins_as_it_is_told(debian: Sandbox) -> None:
    with debian.session(workdir="/tmp", env={"GREETING": "größe"}, user="nobody") as session:
        assert said(session.run('pwd; echo "$GREETING"; id -un')) == "/tmp\ngröße\nnobody\n"


def test_exit_codes_are_exact_and_status_is_kept_between_commands(either: Session) -> None:
    assert [either.run(each).returncode for each in ("true", "false", "(exit 7)", "no-such-program", "sh -c 'kill -9 $$'")] == [
        0,
        1,
        7,
        127,
        137,
    ]
    either.run("(exit 42)")
    assert said(either.run("echo $?")) == "42\n"


def test_last_background_pid_is_kept_and_jobs_go_on(session: Session) -> None:
    said(session.run("sleep 1000 & echo started"))
    assert said(session.run("kill -0 $! && echo alive")) == "alive\n"
    assert said(session.run("jobs")).split() == ["[1]+", "Running", "sleep", "1000", "&"]
    assert session.run("kill $!; wait $!").returncode == 143


def test_what_a_background_job_says_between_commands_is_the_sessions_own_output(session: Session, debian: Sandbox) -> None:
    said(session.run("mkfifo /tmp/tick; (cat /tmp/tick; echo between >&2; echo > /tmp/ticked) & mkfifo /tmp/ticked"))
    debian.run("echo now > /tmp/tick; cat /tmp/ticked; rm /tmp/tick /tmp/ticked", check=True)
    assert said(session.run("echo after")) == "after\n"
    assert session.output() == b"now\nbetween\n"


def test_startup_files_are_read_in_order(debian: Sandbox) -> None:
    debian.run("printf 'a=1\\nfalse\\n' > /tmp/one.sh; echo 'b=$((a+1))' > '/tmp/the other.sh'", check=True)
    with debian.session(startup=["/tmp/one.sh", "/tmp/the other.sh"]) as session:
        assert said(session.run("echo $a $b")) == "1 2\n"


def test_missing_startup_file_opens_no_session(debian: Sandbox, shared: Sandbox) -> None:
    for sandbox in (debian, shared):
        with pytest.raises(SessionNotOpened, match="/nowhere/rc could not be read") as caught:
            sandbox.session(startup=["/nowhere/rc"])
        assert "/nowhere/rc" in caught.value.output


@pytest.mark.parametrize("wrong", [{"user": "nobody-of-that-name"}, {"workdir": "/not/there"}, {"shell": "/bin/no-shell"}])
def test_session_that_cannot_start_says_why(debian: Sandbox, wrong: dict[str, str]) -> None:
    with pytest.raises(SessionNotOpened, match=r"could not be started|did not start"):
        debian.session(**wrong)


def test_login_shell_reads_its_profile(debian: Sandbox) -> None:
    with debian.session(login=True) as session:
        assert said(session.run("shopt -q login_shell && echo login")) == "login\n"


# --------------------------------------------------------------------------------------------------- what is run


def test_heredocs_and_several_lines_are_one_command(either: Session) -> None:
    said(either.run("name=world"))
    assert said(either.run("cat <<EOF\nhello $name\nEOF\ncat <<'EOF'\nhello $name\nEOF\necho done")) == "hello world\nhello $name\ndone\n"


def test_output_is_exact(session: Session) -> None:
    """No prompt, no marker, nothing stripped and nothing added."""
    assert session.run(r"printf ' a\r\n\tb\0c \n\n'").output() == b" a\r\n\tb\0c \n\n"
    assert session.run(r"printf '\377\376'").output() == b"\xff\xfe"
    assert session.run("printf 'no newline'").output() == b"no newline"
    assert session.run("true").output() == b""


def test_unicode_is_kept_in_command_and_output(either: Session) -> None:
    assert said(either.run("x='7 €'; echo \"$x 日本語 🎉\"")) == "7 € 日本語 🎉\n"


def test_command_of_a_megabyte_runs(either: Session) -> None:
    text = "0123456789abcdef" * (1 << 16)
    assert said(either.run(f"x={text}; echo ${{#x}}")) == f"{1 << 20}\n"
    assert said(either.run("echo ${#x}")) == f"{1 << 20}\n"


def test_nul_is_refused_and_the_session_goes_on(session: Session) -> None:
    with pytest.raises(InvalidSpec, match="NUL"):
        session.run("echo a\0b")
    assert said(session.run("echo on")) == "on\n"


def test_syntax_errors_are_told_in_the_shells_words_and_harm_nothing(session: Session) -> None:
    said(session.run("x=1"))
    for wrong, words in (
        ("if true; then", "syntax error"),
        ("echo 'open", "unexpected EOF"),
        ("fi", "syntax error"),
        ("a b )", "syntax error"),
    ):
        failed = session.run(wrong)
        assert failed.returncode not in (0, None)
        assert words in failed.text
    assert said(session.run("echo $x")) == "1\n"


def test_stdin_is_empty(either: Session) -> None:
    assert said(either.run("cat; wc -c")).strip() == "0"


def test_unset_variable_under_set_u_fails_the_command_alone(session: Session) -> None:
    said(session.run("set -u"))
    assert session.run("echo $nothing_of_that_name; echo not reached").returncode == 1
    assert said(session.run("set +u; echo on")) == "on\n"


def test_return_and_break_outside_of_anything_harm_nothing(session: Session) -> None:
    for odd in ("return 5", "break", "continue", "shift 3"):
        session.run(odd)
    assert said(session.run("echo on")) == "on\n"


def test_traps_stay_and_run(either: Session) -> None:
    said(either.run("trap 'echo got it' USR1"))
    assert said(either.run("kill -USR1 $$; echo after")) == "got it\nafter\n"


def test_split_streams_are_kept_apart_for_every_command(debian: Sandbox) -> None:
    with debian.session(streams="split") as session:
        for number in range(3):
            execution = session.run(f"echo out {number}; echo err {number} >&2")
            assert (execution.output(), execution.stderr()) == (f"out {number}\n".encode(), f"err {number}\n".encode())


def test_large_output_is_whole(session: Session) -> None:
    execution = session.run("seq 1 200000")
    assert execution.output() == b"".join(b"%d\n" % number for number in range(1, 200001))
    assert said(session.run("echo small")) == "small\n"


def test_output_is_heard_while_the_command_runs(session: Session) -> None:
    heard: list[bytes] = []

    def hear(piece: OutputPiece) -> None:
        heard.append(piece.data)

    assert said(session.run("echo one; echo two", on_output=hear)) == "one\ntwo\n"
    assert b"".join(heard) == b"one\ntwo\n"
    assert [type(event).__name__ for event in session.stream("echo three")][-1] == "Ended"


def test_check_raises_for_what_failed(session: Session) -> None:
    with pytest.raises(CommandFailed, match="code 3"):
        session.run("(exit 3)", check=True)


# ---------------------------------------------------------------------------------------------------- how it ends


@pytest.mark.parametrize(
    ("last", "code"), [("exit 3", 3), ("set -e; false; echo not reached", 1), ("exec sh -c 'exit 4'", 4), ("exit", 0), ("kill -9 $$", None)]
)
def test_end_of_the_shell_ends_command_and_session_with_its_status(debian: Sandbox, last: str, code: int | None) -> None:
    session = debian.session()
    execution = session.run(last)
    assert execution.outcome is not None and execution.outcome.code == code
    assert b"not reached" not in execution.output()
    assert (session.alive, session.exit_code) == (False, code)
    with pytest.raises(SessionEnded) as caught:
        session.run("touch /tmp/ran-after-the-end")
    assert caught.value.exit_code == code
    assert debian.run("test -e /tmp/ran-after-the-end").returncode == 1
    session.close()


def test_set_e_in_force_ends_it_at_the_first_failure(debian: Sandbox) -> None:
    session = debian.session()
    said(session.run("set -e"))
    said(session.run("if false; then :; fi; false || true"))
    assert session.run("(exit 9)").returncode == 9
    assert not session.refresh().alive


def test_closing_ends_all_that_the_session_started(debian: Sandbox) -> None:
    with debian.session() as session:
        said(session.run("setsid sleep 98765 & sleep 98765 &"))
        assert debian.run("pgrep -fc '^sleep 98765'").text == "2\n"
    assert debian.run("pgrep -fc '^sleep 98765'").text == "0\n"
    assert not session.alive
    session.close()


def test_shell_killed_from_outside_is_told_to_the_next_command(debian: Sandbox) -> None:
    session = debian.session()
    debian.run(f"kill -9 {said(session.run('echo $$'))}", check=True)
    until(lambda: not session.refresh().alive, "the server knows of it")
    with pytest.raises(SessionEnded, match="signal 9"):
        session.run("echo late")
    assert session.outcome is not None and session.outcome.signal == 9


# ------------------------------------------------------------------------------------------ timeouts, cancels, interrupts


@pytest.mark.parametrize(
    "command", ["sleep 1000; echo not reached", "while :; do :; done", "trap '' INT; sh -c 'trap \"\" INT TERM; sleep 1000'"]
)
def test_timeout_interrupts_the_command_and_keeps_the_session(session: Session, command: str) -> None:
    said(session.run("kept=1"))
    execution = session.run(f"echo before; {command}", timeout_s=0.5, grace_s=0.3)
    assert execution.outcome is not None and (execution.outcome.kind, execution.outcome.clock) == ("timed_out", "total")
    assert execution.text.rstrip("\n") == "before"  # an interrupted bash ends the line itself
    assert session.alive
    assert said(session.run("echo $kept")) == "1\n"


def test_timeout_spares_the_jobs_of_earlier_commands(session: Session) -> None:
    said(session.run("sleep 1000 &"))
    session.run("sleep 1001", timeout_s=0.3)
    assert said(session.run("kill -0 $! && echo spared; pgrep -fc '^sleep 1001'; kill $!")).splitlines()[0] == "spared"


def test_idle_timeout_holds_in_sessions(session: Session) -> None:
    execution = session.run("echo a; sleep 1000", idle_timeout_s=0.4)
    assert execution.outcome is not None and execution.outcome.clock == "idle"
    assert said(session.run("echo on")) == "on\n"


def test_cancel_from_another_thread_keeps_the_session(session: Session) -> None:
    execution = session.start("echo begun; sleep 1000")
    for _ in execution.follow():
        execution.cancel()
    assert execution.text.startswith("begun\n")
    assert execution.outcome is not None and execution.outcome.kind == "cancelled"
    assert said(session.run("echo on")) == "on\n"


def test_interrupt_is_for_what_runs_and_for_nothing_when_nothing_does(session: Session) -> None:
    session.interrupt()
    execution = session.start("echo begun; sleep 1000")
    for _ in execution.follow():
        session.interrupt()
    assert execution.returncode == 130
    assert said(session.run("echo on")) == "on\n"


# ------------------------------------------------------------------------------------------------------ several


def test_sessions_of_a_sandbox_run_beside_each_other_and_know_nothing_of_each_other(debian: Sandbox) -> None:
    with debian.session() as one, debian.session() as other:
        said(one.run("cd /usr; mkfifo /tmp/meet; x=one"))
        waiting = one.start("cat /tmp/meet; echo $x")
        assert said(other.run("cd /etc; x=other; echo met > /tmp/meet; rm /tmp/meet; pwd")) == "/etc\n"
        assert waiting.wait().text == "met\none\n"
        assert said(one.run("pwd; echo $x")) == "/usr\none\n"


def test_threads_share_a_session_command_by_command(session: Session) -> None:
    said(session.run("n=0"))
    results: list[str] = []
    threads = [threading.Thread(target=lambda: results.append(said(session.run("n=$((n+1)); echo $n")))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(each) for each in results) == list(range(1, 13))


def test_started_command_and_the_next_come_one_after_the_other(session: Session) -> None:
    session.start("sleep 0.3; x=set")
    assert said(session.run("echo $x")) == "set\n"


def test_session_of_a_given_id_is_come_back_to(debian: Sandbox) -> None:
    first = debian.session(id="session-of-ours")
    said(first.run("x=kept"))
    again = debian.session(id="session-of-ours")
    assert said(again.run("echo $x")) == "kept\n"
    again.close()
    assert not first.refresh().alive


# ------------------------------------------------------------------------------------------------- server crashes


def test_server_killed_in_the_middle_of_a_command_costs_nothing(make_server: Callable[..., Server], sandbox_image: str) -> None:
    server = make_server().start()
    with server.client() as client, client.create_sandbox(SANDBOX, memory_bytes=SMALL) as sandbox:
        session = sandbox.session()
        said(session.run("cd /usr; x=kept; (sleep 0.6; echo from the job) & echo started"))
        running = session.start("echo before; sleep 0.8; echo once >> /tmp/log; echo after")
        server.restart()
        assert running.wait().text == "before\nafter\n" or "from the job" in running.text
        assert said(session.run("pwd; echo $x; cat /tmp/log; wait; echo $?")).startswith("/usr\nkept\nonce\n")
        server.restart()
        assert said(session.run("echo $x")) == "kept\n"


def test_busybox_session_survives_what_it_can(make_sandbox: MakeSandbox) -> None:
    """A plain sh is driven otherwise: what bash comes back from, it must come back from, or end and say so."""
    session = make_sandbox(BUSYBOX).session()
    assert said(session.run("x=1; cd /tmp")) == ""
    assert session.run("sleep 1000", timeout_s=0.3).outcome.kind == "timed_out"  # type: ignore[union-attr]
    assert said(session.run("echo $x; pwd")) == "1\n/tmp\n"
