"""Programs that a list of options cannot describe, because an operand of theirs is a small program of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from remote_env._reads.rule import Invocation
from remote_env._reads.words import NotARead, Word


def anything(words: Sequence[Word]) -> None:
    """For programs that do nothing but print, whatever they are told."""


def only(*accepted: str) -> Callable[[Sequence[Word]], None]:
    """For programs that only read when told exactly one of these, each a line of words."""
    lines = frozenset(tuple(line.split()) for line in accepted)

    def require(words: Sequence[Word]) -> None:
        if tuple(word.text for word in words) not in lines or any(word.expands_at is not None for word in words):
            raise NotARead("arguments other than the few that are known to only read")

    return require


def date(invocation: Invocation) -> None:
    """An operand is a format, or else the time to set the clock to."""
    if not all(word.text.startswith("+") for word in invocation.operands):
        raise NotARead("an operand that sets the clock")


def sleep(invocation: Invocation) -> None:
    """Operands are times that pass."""
    if not all(re.fullmatch(r"[0-9]*\.?[0-9]+[smhd]?", word.text) for word in invocation.operands):
        raise NotARead("an operand that is not a time")


def ps(invocation: Invocation) -> None:
    """Operands are letters (`aux`), columns (`pid,comm`) or process ids."""
    if not all(re.fullmatch(r"[A-Za-z0-9,_%]+", word.text) for word in invocation.operands):
        raise NotARead("an operand that is neither letters, columns nor process ids")


def xxd(words: Sequence[Word]) -> None:
    """At most one file: the second is written. xxd reads one letter of each option and overlooks the rest, so `-pl 5` has no value."""
    remaining = [word.text for word in words]
    while remaining and remaining[0].startswith("-"):
        option = remaining.pop(0)
        if option in ("-c", "-g", "-l", "-s") and remaining:
            option += remaining.pop(0)
        if not re.fullmatch(r"-[abeEipu]|-[cgls][0-9]+", option):
            raise NotARead("an option that is not known to only read")
    if len(remaining) > 1 or any(word.expands_at is not None for word in words):
        raise NotARead("a second file, which is written")


# -- find ----------------------------------------------------------------------------------------------------------------

_FIND_TEXT = r"(?!-).*"
_FIND_NUMBER = r"[-+]?[0-9]+[bcwkMG]?"
_FIND: dict[str, str | None] = {"-perm": r"[-/]?[0-7ugoarwxXst=+,-]+"}  # what the argument looks like; None: takes none
for _names, _argument in (
    ("-H -L -P -O0 -O1 -O2 -O3 -daystart -follow -depth -mount -xdev", None),
    ("-not -a -and -o -or -true -false -empty -executable -readable -writable -nouser -nogroup", None),
    ("-prune -quit -print -print0 -ls", None),
    ("-name -iname -lname -ilname -path -ipath -wholename -iwholename -regex -iregex -regextype -printf", _FIND_TEXT),
    ("-samefile -user -group -type -xtype -fstype -newer -anewer -cnewer", _FIND_TEXT),
    ("-amin -atime -cmin -ctime -mmin -mtime -size -links -inum -uid -gid -used -maxdepth -mindepth", _FIND_NUMBER),
    (" ".join(f"-newer{x}{y}" for x in "aBcm" for y in "aBcmt"), _FIND_TEXT),
):
    _FIND.update(dict.fromkeys(_names.split(), _argument))


def find(words: Sequence[Word]) -> None:
    """Starting points, then an expression of tests and of the actions that print; never -delete, -exec, -ok, -fprint, -fls."""
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        if word.may_become_option:
            raise NotARead("a word that may expand to an action")
        if not word.text.startswith("-"):
            continue
        if word.expands_at is not None or word.text not in _FIND:
            raise NotARead("a predicate or action that is not known to only read")
        pattern = _FIND[word.text]
        if pattern is None:
            continue
        if not remaining or remaining[0].may_become_option or not re.fullmatch(pattern, remaining.pop(0).text, re.DOTALL):
            raise NotARead(f"the argument of {word.text}")


# -- the shell's own -----------------------------------------------------------------------------------------------------

_TEST_OPERATORS = frozenset(f"-{letter}" for letter in "abcdefghkLnoprsStuwxzGNO") | {"-nt", "-ot", "-ef"}
_PRINTF_ASSIGNS = re.compile(r"%[^%A-Za-z]*[hlLjzt]*n")


def test(words: Sequence[Word]) -> None:
    """Operators on files and strings. Not `-v`, `-R`, nor arithmetic: shells run what stands in an array's index."""
    _refuse_code(words)
    for word in words:
        if word.may_become_option or (word.text.startswith("-") and word.text not in _TEST_OPERATORS):
            raise NotARead("an operator that is not known to only read")


def bracket(words: Sequence[Word]) -> None:
    """`[ … ]`: as `test`."""
    if not words or words[-1].text != "]":
        raise NotARead("no closing bracket")
    test(words[:-1])


def printf(words: Sequence[Word]) -> None:
    """A format and what to print. Not `-v` or `%n`, which assign."""
    _refuse_code(words)
    if not words or words[0].text.startswith("-") or words[0].expands_at is not None:
        raise NotARead("an option, or no format")
    if _PRINTF_ASSIGNS.search(words[0].text):
        raise NotARead("a format that assigns")


def change_directory(invocation: Invocation) -> None:
    """`cd` to one directory; it ends with the shell, and every execution has its own."""
    if [word.text for word in invocation.operands] == ["-"]:
        raise NotARead("a directory that depends on earlier commands")


def _refuse_code(words: Iterable[Word]) -> None:
    if any("$(" in word.text or "`" in word.text for word in words):
        raise NotARead("a quoted substitution, which some shells run when they look for a number")


# -- sed and awk ---------------------------------------------------------------------------------------------------------

# Bounded, so that no script takes long to judge.
_S = "[ \\t]{0,9}"
_S1 = "[ \\t]{1,9}"

# An atom has no unescaped delimiter in it and only brackets that every sed and awk closes at the same place.
_ATOM = r"(?:[^{d}\\\[\n]|\\[^\n]|\[\^?\]?(?:[^{d}\\\[\]\n]|\[:[a-z]+:\])+\])"
_REGEX = f"/{_ATOM.format(d='/')}*/I?"
_ADDRESS = rf"(?:[0-9]+(?:~[0-9]+)?|\$|{_REGEX})"
_ADDRESSES = rf"(?:{_ADDRESS}(?:{_S},{_S}(?:{_ADDRESS}|[+~][0-9]+))?{_S}!?{_S})?"
_SUBSTITUTE = "|".join(
    rf"s{delimiter}{_ATOM.format(d=delimiter)}*{delimiter}(?:[^{delimiter}\\\[\n]|\\[^\n])*{delimiter}[gpIi0-9]*"
    for delimiter in ("/", r"\|", "#", ",", "@")
)
_SED_COMMAND = rf"{_S}{_ADDRESSES}(?:[pd=]|[qQ][0-9]*|{_SUBSTITUTE}){_S}"
_SED_SCRIPT = re.compile(rf"{_SED_COMMAND}(?:;{_SED_COMMAND})*;?{_S}")


def sed(invocation: Invocation) -> None:
    """Scripts of p, d, =, q, Q and s without its flags w and e."""
    scripts = invocation.values("-e", "--expression")
    if not scripts:
        if not invocation.operands or invocation.operands[0].expands_at is not None:
            raise NotARead("no script")
        scripts = [invocation.operands[0].text]
    if not all(_SED_SCRIPT.fullmatch(script) for script in scripts):
        raise NotARead("a script that is not known to only print")


_AWK_VALUE = r'(?:\$[0-9]+|\$NF|NR|FNR|NF|[0-9]+|"[^"\\\n]*")'
_AWK_TEST = rf"!?/[\w .:=,@-]+/|{_AWK_VALUE}{_S}(?:==|!=|>=|<=|<|>){_S}{_AWK_VALUE}"
_AWK_PATTERN = rf"(?:END|(?:{_AWK_TEST})(?:{_S}(?:&&|\|\||,){_S}(?:{_AWK_TEST}))*)"
_AWK_PRINT = rf"print(?:{_S}{_AWK_VALUE}(?:(?:{_S},{_S}|{_S1}){_AWK_VALUE})*)?"
_AWK_PROGRAM = re.compile(rf"{_S}(?:{_AWK_PATTERN}|(?:{_AWK_PATTERN})?{_S}\{{{_S}{_AWK_PRINT}{_S};?{_S}\}}){_S}")


def awk(invocation: Invocation) -> None:
    """One pattern that compares fields and numbers, one action that prints some; `>`, `|`, getline and system have no place there."""
    if not invocation.operands or invocation.operands[0].expands_at is not None:
        raise NotARead("no program")
    if not _AWK_PROGRAM.fullmatch(invocation.operands[0].text):
        raise NotARead("a program that is not known to only print")
