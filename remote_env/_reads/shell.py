"""The small part of the shell's grammar in which a command can be proven to be a read.

It is the part that POSIX sh and bash read alike, in a locale that contains ASCII (C, UTF-8):

    script       simple commands joined by `|`, `&&`, `||`, `;`, on one line; blank lines around it do not count
    command      words and redirections, at least one word
    word         unquoted characters of a fixed list, `\\c`, '…', "…"; globs and braces (not `{a..b}`); `~` and `~/…`
    redirection  [012]>/dev/null  [012]>>/dev/null  [12]>&1  [12]>&2  [0]<file

Everything else is refused, not guessed at: newlines, comments, every `$` and backquote that the shell would expand, here-documents,
subshells, groups, process substitution, `&`, `|&`, control characters, and anything but ASCII outside quotes (some locales
have blanks there). Reserved words and assignments are ordinary words here; no table of commands holds them.
"""

from __future__ import annotations

import string

from remote_env._reads.words import NotARead, Word, refuse_device

_BLANK = " \t"
_ENDS_WORD = _BLANK + "|&;<>"
_PLAIN = frozenset(string.ascii_letters + string.digits + "_-./,:=+@%^#]}")
_EXPANDS = frozenset("*?[{")


def simple_commands(script: str) -> list[tuple[Word, ...]]:
    """The simple commands of a script, in order, each the words that its program gets; pipes and lists look alike.

    Raises:
        NotARead: the script is outside the accepted grammar, or redirects to a file.
    """
    return _Scanner(script.strip(" \t\n")).script()


class _Scanner:
    """One pass over a script; `position` is the index of the next character."""

    def __init__(self, script: str) -> None:
        self.text = script
        self.position = 0

    def peek(self, offset: int = 0) -> str:
        """The character `offset` places ahead; "" past the end."""
        at = self.position + offset
        return self.text[at] if at < len(self.text) else ""

    def skip_blanks(self) -> None:
        while self.peek() and self.peek() in _BLANK:
            self.position += 1

    # -- commands ----------------------------------------------------------------------------------------------------

    def script(self) -> list[tuple[Word, ...]]:
        commands: list[tuple[Word, ...]] = []
        words: list[Word] = []
        incomplete = True  # a command has begun, or has to follow
        while True:
            self.skip_blanks()
            char = self.peek()
            if not char:
                break
            if char in "|&;":
                incomplete = self.operator() != ";"
                commands.append(self.ended(words))
                words = []
                continue
            incomplete = True
            if char in "<>":
                self.redirection(descriptor="")
            elif char == "#":
                raise NotARead("a comment")
            else:
                start = self.position
                word = self.word()
                if self.peek() and self.peek() in "<>":
                    self.redirection(descriptor=self.text[start : self.position])
                else:
                    words.append(word)
        if incomplete:
            commands.append(self.ended(words))
        return commands

    def ended(self, words: list[Word]) -> tuple[Word, ...]:
        if not words:
            raise NotARead("an empty command")
        return tuple(words)

    def operator(self) -> str:
        operator = self.peek() * 2 if self.peek(1) == self.peek() else self.peek()
        if operator not in ("|", "||", "&&", ";") or (self.peek(len(operator)) or " ") in "|&;":
            raise NotARead("an operator other than | && || ;")
        self.position += len(operator)
        return operator

    # -- redirections ------------------------------------------------------------------------------------------------

    def redirection(self, descriptor: str) -> None:
        direction = self.peek()
        self.position += 1
        if descriptor not in (("", "0") if direction == "<" else ("", "0", "1", "2")):
            raise NotARead("a redirection glued to a word")
        if direction == "<":
            target = self.redirection_target()
            if target.expands_at is not None:
                raise NotARead("a redirection whose target the shell expands")
            refuse_device(target.text)
        elif self.peek() == "&":
            self.position += 1
            # Closing (`2>&-`) would let the next file that is opened take the number, and be written to as if it were stderr.
            if self.peek() not in ("1", "2") or (self.peek(1) or " ") not in _ENDS_WORD:
                raise NotARead("a redirection to a descriptor other than 1 or 2")
            self.position += 1
        else:
            if self.peek() == ">":
                self.position += 1
            if self.redirection_target() != Word("/dev/null"):
                raise NotARead("a redirection to a file")

    def redirection_target(self) -> Word:
        self.skip_blanks()
        if (self.peek() or "|") in _ENDS_WORD:
            raise NotARead("a redirection of another kind than to /dev/null, to 1 or 2, or from a file")
        return self.word()

    # -- words -------------------------------------------------------------------------------------------------------

    def word(self) -> Word:
        start = self.position
        text: list[str] = []
        expands_at: int | None = None
        brace = False
        while (char := self.peek()) and char not in _ENDS_WORD:
            if char == "'":
                text.append(self.single_quoted())
            elif char == '"':
                text.append(self.double_quoted())
            elif char == "\\":
                text.append(self.escaped())
            elif char in _EXPANDS:
                if expands_at is None:
                    expands_at = len("".join(text))
                brace = brace or char == "{"
                text.append(self.take())
            elif char == "!":
                text.append(self.exclamation_mark())
            elif char == "~":
                text.append(self.tilde(at_start=self.position == start))
            elif char in _PLAIN:
                text.append(self.take())
            else:
                raise NotARead(_name_of(char))
        raw = self.text[start : self.position]
        if raw == "[":  # the command: a bracket that nothing closes is no glob
            expands_at = None
        if brace and ".." in raw:
            # {Z..a} makes backquotes and backslashes out of letters.
            raise NotARead("a brace with a sequence")
        return Word("".join(text), expands_at)

    def take(self) -> str:
        char = self.peek()
        self.position += 1
        return char

    def single_quoted(self) -> str:
        end = self.text.find("'", self.position + 1)
        if end < 0:
            raise NotARead("a quote that nothing closes")
        quoted = self.text[self.position + 1 : end]
        for char in quoted:
            _require_printable(char)
        self.position = end + 1
        return quoted

    def double_quoted(self) -> str:
        self.position += 1
        quoted: list[str] = []
        while (char := self.peek()) != '"':
            if not char:
                raise NotARead("a quote that nothing closes")
            after = self.peek(1)
            if char == "\\" and after and after in '$`"\\':
                self.position += 1
            elif char == "`" or (char == "$" and (not after or after not in '" |')):
                raise NotARead("an expansion")
            elif char == "!" and (not after or after not in '"= '):
                raise NotARead("a history expansion")
            _require_printable(self.peek())
            quoted.append(self.take())
        self.position += 1
        return "".join(quoted)

    def escaped(self) -> str:
        self.position += 1
        if not " " <= self.peek() <= "~":
            raise NotARead("a backslash before the end of the line or a character that is not ASCII")
        return self.take()

    def exclamation_mark(self) -> str:
        if (self.peek(1) or " ") not in _BLANK + "=":
            raise NotARead("a history expansion")
        return self.take()

    def tilde(self, at_start: bool) -> str:
        # HOME is taken to be an absolute path. ~user, ~+ and ~- are not; behind = and : bash expands in places.
        if (self.peek(1) or " ") not in _ENDS_WORD + "/" if at_start else self.text[self.position - 1] in "=:":
            raise NotARead("a tilde other than ~/ at the start of a word")
        return self.take()


def _require_printable(char: str) -> None:
    if not char.isprintable() and char != "\t":
        raise NotARead("a newline, control or invisible character inside quotes")


def _name_of(char: str) -> str:
    if char in "$`":
        return "an expansion"
    if char in "()":
        return "a subshell, function or substitution"
    if char == "\n":
        return "more than one line"
    return "a character that is not accepted outside quotes"
