"""The recogniser of reads: what it must accept, what it must not. What shells do with it: `test_idempotency_in_shells`."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remote_env.idempotency import ReadCommands, ReadRule, is_idempotent_read, rule

CASES = Path(__file__).parent / "idempotency"
TABLE = ReadCommands.default()


def commands(name: str) -> list[str]:
    """The commands of one case file, one a line; `##` begins a remark."""
    lines = (("  " + line).partition("  ##")[0].strip(" ") for line in (CASES / name).read_text("utf-8").splitlines())
    return [line for line in lines if line]


READS = [*commands("reads.txt"), "\n  ls -la\n", "\tls\t-la", "cat 'café ☕.txt'"]
WRITES = commands("writes.txt")
LOOKALIKES = [
    *commands("lookalikes.txt"),
    *("", " ", "\n", "ls\nrm x", "ls\n\nls", "ls \\\n-la", "ls\\\nrm x", "ls 'a\nb'", 'ls "a\nb"', "git status\ngit add ."),
    *("ls\r", "ls\r\nrm x", "ls\x0brm x", "ls\x0crm x", "ls\x00rm x", "ls '\x00'", "ls \x1b[2J"),
    *(
        "ls\u00a0-la",
        "ls\u2003;rm x",
        "ls \uff1brm x",
        "ls '\u202e'",
        "ls '\u00a0'",
        "ls caf\u00e9",
        "\u0130s",
        "l\u017f",
        "ls '\udcff'",
        "ls \\\u00e9",
    ),
    *("cat << EOF\nx\nEOF", "cat <<'EOF' > f\nx\nEOF", "sed -n '1p\nw f' x", "awk '{print}\n{print > \"f\"}' x"),
]


# -- the two lists -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", READS)
def test_read_is_recognised(command: str) -> None:
    assert TABLE.why_not(command) is None


@pytest.mark.parametrize("command", [*WRITES, *LOOKALIKES])
def test_command_that_only_looks_like_a_read_is_refused(command: str) -> None:
    assert not TABLE.is_read(command)
    assert TABLE.why_not(command)


# -- what is added to a read ---------------------------------------------------------------------------------------------

TAILS = [
    *(
        "; rm x",
        " ;rm x",
        " && rm x",
        " || rm x",
        " & rm x",
        " &",
        "&rm x",
        "\nrm x",
        "\r\nrm x",
        "\n\nrm x",
        " | rm",
        " | sh",
        " | tee f",
        " |& tee f",
    ),
    *(" > f", ">f", " 2> f", " >> f", " >| f", " <> f", " &> f", " >& f", " > f 2>&1", " 2>&1 > f", " 3>&1", " << f", " <<< f"),
    *(
        " $(rm x)",
        "$(rm x)",
        " `rm x`",
        ' "$(rm x)"',
        ' "`rm x`"',
        " <(rm x)",
        " >(rm x)",
        " $((x=1))",
        " ${x:=1}",
        " $x",
        " (rm x)",
        "() { rm x; }",
    ),
    *(" # x", " '", ' "', " \\", " |", " &&", "; X=1", "; X=1 ls", "; { ls; }", "; ! ls", "; if ls; then ls; fi", "\u00a0;rm x", " {Z..a}"),
]


@pytest.mark.parametrize("tail", TAILS)
def test_read_followed_by_anything_else_is_refused(tail: str) -> None:
    accepted = [command for command in READS if TABLE.is_read(command.rstrip() + tail)]
    # Behind `find … ;` or `ls;` some tails begin the command or are doubled operators: refused as well. None is accepted.
    assert accepted == []


@pytest.mark.parametrize(
    "head", ["rm x; ", "rm x && ", "rm x | ", "X=1 ", "sudo ", "! ", "time ", "( ", "{ ", "> f ", "exec ", "nohup ", "\\\n", "a() "]
)
def test_read_behind_anything_else_is_refused(head: str) -> None:
    assert [command for command in READS if TABLE.is_read(head + command.lstrip())] == []


@given(first=st.sampled_from(READS), second=st.sampled_from(READS), operator=st.sampled_from(["; ", " && ", " || ", " | "]))
@settings(derandomize=True, deadline=None, database=None)
def test_reads_joined_are_a_read(first: str, second: str, operator: str) -> None:
    assert TABLE.is_read(first.strip().rstrip(";") + operator + second.strip())


@given(command=st.sampled_from(READS), bad=st.sampled_from(LOOKALIKES), operator=st.sampled_from(["; ", " && ", " || ", " | "]))
@settings(derandomize=True, deadline=None, database=None)
def test_one_part_that_is_no_read_spoils_the_whole(command: str, bad: str, operator: str) -> None:
    first = command.strip().rstrip(";")
    assert not TABLE.is_read(first + operator + bad) or not bad.strip()
    if not bad.endswith("\\"):  # a backslash there quotes the operator: `ls \; ls` lists a file called `;`
        assert not TABLE.is_read(bad + operator + first)


# -- any text ------------------------------------------------------------------------------------------------------------


@given(st.one_of(st.text(), st.text(alphabet="ls catgitsorf-=\\'\"$`;|&<>(){}[]*?!~#\n\t/%"), st.lists(st.text())))
@settings(derandomize=True, deadline=None, database=None, max_examples=500)
def test_any_text_gets_an_answer(command: str | list[str]) -> None:
    reason = TABLE.why_not(command)
    assert TABLE.is_read(command) == (reason is None)


# -- argv lists ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ["ls", "-la"],
        ["cat", "a; rm x"],
        ["/bin/cat", "$(x)"],
        ["git", "log", "--oneline"],
        ["grep", "-n", "*", "a\nb"],
        ("pwd",),
        ["sort", "*"],
    ],
)
def test_argv_list_is_taken_word_by_word(argv: list[str]) -> None:
    assert TABLE.why_not(argv) is None


@pytest.mark.parametrize(
    "argv",
    [
        [],
        [""],
        ["ls -la"],
        ["bash", "-c", "ls"],
        ["sh", "-c", "ls"],
        ["sort", "-o", "f"],
        ["ls", "a\0b"],
        ["env", "ls"],
        ["./ls"],
        ["sed", "w f"],
        [1],
        ["ls", None],
        b"ls",
    ],
)
def test_argv_list_that_is_no_read_is_refused(argv: list[str]) -> None:
    assert not TABLE.is_read(argv)


# -- extending -----------------------------------------------------------------------------------------------------------


def test_added_program_is_a_read_with_its_options_and_no_others() -> None:
    table = TABLE.extended({"kubectl get": "-A -o= --namespace= --show-labels", "mytool": "", "/opt/bin/probe": "-v"})
    for command in ("kubectl get pods -A", "kubectl get -o wide --namespace=x pods", "mytool a b", "/opt/bin/probe -v | head"):
        assert table.why_not(command) is None
    for command in ("kubectl delete pod x", "kubectl", "kubectl get -w pods", "mytool -x", "mytool *", "probe -v"):
        assert not table.is_read(command)


def test_extending_leaves_the_table_itself_as_it_was() -> None:
    TABLE.extended({"mytool": "", "git notes list": "", "cat": None})
    assert not TABLE.is_read("mytool")
    assert not TABLE.is_read("git notes list")
    assert TABLE.is_read("cat x")


def test_added_subcommand_keeps_the_others() -> None:
    table = TABLE.extended({"git notes list": ""})
    assert table.is_read("git notes list")
    assert table.is_read("git status")
    assert not table.is_read("git notes add")


def test_program_or_subcommand_can_be_taken_out() -> None:
    table = TABLE.extended({"docker": None, "git worktree list": None, "pip check": None, "nothing at all": None})
    for command in ("docker ps", "git worktree list", "git worktree add x", "git worktree", "pip check", "nothing", "nothing at all"):
        assert not table.is_read(command)
    assert table.is_read("git status")
    assert table.is_read("pip list")


def test_added_rule_can_limit_operands() -> None:
    limited: ReadRule = rule("-q --level=", operands=1, options_first=True)
    table = TABLE.extended({"convert": limited})
    assert table.is_read("convert -q --level 3 in")
    for command in ("convert in out", "convert in -q", "convert i*", "convert -- in out"):
        assert not table.is_read(command)


@pytest.mark.parametrize("additions", [{"": ""}, {" ": "-a"}, {"x": "a"}, {"x": "-a=b"}, {"x": "---"}, {"x": "-a,-b"}])
def test_malformed_addition_is_refused(additions: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"empty|not an option"):
        TABLE.extended(additions)


# -- the answer ----------------------------------------------------------------------------------------------------------


def test_function_uses_the_given_table() -> None:
    assert is_idempotent_read("ls")
    assert not is_idempotent_read("mytool")
    assert is_idempotent_read("mytool", TABLE.extended({"mytool": ""}))
    assert not is_idempotent_read("ls", ReadCommands({}))


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("sort -o f x", "sort: the option -o"),
        ("git push", "git: a subcommand"),
        ("git stash drop", "git: stash: a subcommand"),
        ("ls > f", "redirection to a file"),
    ],
)
def test_reason_names_what_is_in_the_way(command: str, part: str) -> None:
    assert part in (TABLE.why_not(command) or "")


SECRETS = [
    *(
        "TOKEN=s3cret ls",
        "s3cret",
        "cat --s3cret",
        "cat --password=s3cret",
        "cat -s3cret",
        "git s3cret",
        "git log --s3cret=1",
        "ls > s3cret",
    ),
    *(
        "find . -s3cret",
        "find . -name -s3cret",
        "sed s3cret x",
        "date s3cret",
        "git config x.y s3cret",
        "uniq a s3cret",
        "cd a s3cret",
        "ls $s3cret",
    ),
    *(
        "printf -v s3cret",
        "[ -s3cret x ]",
        "docker logs web s3cret",
        "sort -k -s3cret",
        "xxd -s3cret",
        "cat < /dev/s3cret",
        "awk s3cret x",
    ),
]


@pytest.mark.parametrize("command", SECRETS)
def test_reason_never_repeats_what_may_be_a_secret(command: str) -> None:
    reason = TABLE.why_not(command)
    assert reason is not None
    assert "s3cret" not in reason
