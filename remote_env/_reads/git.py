"""git: the subcommands and options that only read.

`status`, `diff` and `describe` may refresh the index file's cached file times, and a partial clone fetches objects that are not there
yet. Both are caches: they change no answer and no state that a user made, and a second run finds them filled. So they count as reads.

Left out because they run or write something: `--output`, `--ext-diff`, `--textconv`, `--filters`, `-O` of `grep` (a pager),
`--show-signature` and the format `%G` (gpg makes its home directory), `-c` and `--exec-path` before the subcommand, everything
that goes to a remote.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from remote_env._reads.rule import Invocation, ReadRule, rule
from remote_env._reads.words import NotARead

_ASKS_GPG = r"%[-+ ]?G|%\(\*?signature"

_DIFF = """
    -p -u -s -R -a -w -b -W -z -c -U? -M? -C? -B? -S= -G= -I= --patch --no-patch --raw --stat? --numstat --shortstat --dirstat?
    --summary --compact-summary --name-only --name-status --cached --staged --merge-base --check --quiet --exit-code --color?
    --no-color --color-words? --word-diff? --word-diff-regex= --color-moved? --no-color-moved --ignore-all-space
    --ignore-space-change --ignore-space-at-eol --ignore-blank-lines --ignore-cr-at-eol --ignore-matching-lines= --find-renames?
    --find-copies? --find-copies-harder --no-renames --diff-filter= --minimal --patience --histogram --diff-algorithm= --anchored=
    --function-context --inter-hunk-context= --unified? --text --binary --full-index --abbrev? --no-abbrev --no-index --relative?
    --no-relative --no-ext-diff --no-textconv --no-prefix --src-prefix= --dst-prefix= --pickaxe-all --pickaxe-regex --submodule?
    --ignore-submodules? --cc --combined-all-paths --base --ours --theirs --indent-heuristic --no-indent-heuristic
"""
_LOG = f"""{_DIFF}
    -NUM -n= -i -E -F -P -m -g -t -L= --max-count= --skip= --since= --until= --after= --before= --author= --committer= --grep=
    --all-match --invert-grep --regexp-ignore-case --extended-regexp --fixed-strings --perl-regexp --all --branches? --tags?
    --remotes? --glob= --exclude= --graph --no-graph --oneline --decorate? --no-decorate --decorate-refs= --decorate-refs-exclude=
    --format? --pretty? --abbrev-commit --no-abbrev-commit --date= --relative-date --merges --no-merges --min-parents=
    --max-parents= --first-parent --reverse --follow --topo-order --date-order --author-date-order --left-right --left-only
    --right-only --cherry --cherry-pick --cherry-mark --boundary --not --source --walk-reflogs --no-walk? --full-history
    --simplify-merges --simplify-by-decoration --ancestry-path? --show-pulls --no-notes --notes? --mailmap --use-mailmap
    --no-mailmap --full-diff --log-size --parents --children --root --encoding= --clear-decorations --no-show-signature
"""


def _lists_only(*modes: str) -> Callable[[Invocation], None]:
    """An operand is a pattern where one of these options asks for a list, and the name of something to make where none does."""

    def require(invocation: Invocation) -> None:
        asked = any(name in modes for name, _ in invocation.options)
        if not asked and invocation.operands:
            raise NotARead("an operand without an option that asks for a list")

    return require


def _config(invocation: Invocation) -> None:
    """One key, no value; `--list` takes none. A key has a dot in it, a newer git's subcommands (`edit`, `unset`) have none."""
    listing = any(name in ("-l", "--list") for name, _ in invocation.options)
    keys = [word.text for word in invocation.operands]
    if len(keys) != (0 if listing else 1) or not all(re.fullmatch(r"[A-Za-z][\w-]*\.\S+", key) for key in keys):
        raise NotARead("anything but --list or one key")


_log = rule(_LOG, forbidden=_ASKS_GPG)
_diff = rule(_DIFF)
# Without --no-contains: an old git takes it for the opposite of --contains, and its value for the name of a branch to make.
_LISTING = "--sort= --format= --points-at= --contains=? --merged=? --no-merged=? --color? --no-color --column? --no-column -i --ignore-case"

GIT: ReadRule = rule(
    "-C= -P --no-pager --no-optional-locks --literal-pathspecs --no-replace-objects --version",
    bare=True,
    subcommands={
        "status": rule(
            "-s -b -v -z -u? --short --branch --porcelain? --long --verbose --show-stash --untracked-files? --ignored? "
            "--ignore-submodules? --ahead-behind --no-ahead-behind --renames --no-renames --find-renames? --column? "
            "--no-column"
        ),
        "diff": _diff,
        "diff-tree": rule(f"{_DIFF} -r -t --root --no-commit-id --pretty? --format? -m --stdin", forbidden=_ASKS_GPG),
        "diff-index": rule(f"{_DIFF} -m -r"),
        "diff-files": rule(f"{_DIFF} -q -r"),
        "log": _log,
        "show": _log,
        "whatchanged": _log,
        "rev-list": rule(f"{_LOG} --count --objects --disk-usage? --timestamp --header --in-commit-order", forbidden=_ASKS_GPG),
        "shortlog": rule(f"{_LOG} -s -n -e -w? --summary --numbered --email --group=", forbidden=_ASKS_GPG),
        "reflog": rule(bare=True, subcommands={"show": _log}),
        "blame": rule(
            "-L= -w -M? -C? -e -s -l -t -p -f -n -b -c -k --porcelain --line-porcelain --show-email --show-name --show-number "
            "--root --date= --abbrev= --since= --minimal --no-progress --first-parent --reverse"
        ),
        "annotate": rule("-L= -w -M? -C? -e -l -t"),
        "ls-files": rule(
            "-c -d -m -o -i -s -u -k -t -v -f -z -x= -X= --cached --deleted --modified --others --ignored --stage --unmerged "
            "--killed --exclude= --exclude-from= --exclude-per-directory= --exclude-standard --error-unmatch --full-name "
            "--abbrev? --directory --no-empty-directory --eol --deduplicate --recurse-submodules --format="
        ),
        "ls-tree": rule("-r -d -t -l -z --long --name-only --name-status --object-only --full-name --full-tree --abbrev? --format="),
        "cat-file": rule("-t -s -p -e", operands=2),
        "rev-parse": rule(
            "-q --quiet --verify --short? --abbrev-ref? --symbolic --symbolic-full-name --all --branches? --tags? --remotes? "
            "--show-toplevel --show-prefix --show-cdup --git-dir --absolute-git-dir --git-common-dir --git-path= "
            "--is-inside-work-tree --is-inside-git-dir --is-bare-repository --is-shallow-repository "
            "--show-superproject-working-tree --show-object-format? --revs-only --no-revs --flags --no-flags --default= "
            "--disambiguate="
        ),
        "branch": rule(
            f"-a -r -v --all --remotes --verbose --list --show-current --abbrev? --no-abbrev {_LISTING}",
            forbidden="signature",
            # Not -l: it made a reflog in old versions. Not -v or -a: they list only as long as there is no operand.
            also=_lists_only("--list", "--contains", "--merged", "--no-merged", "--points-at"),
        ),
        "tag": rule(f"-l --list -n? {_LISTING}", forbidden="signature", also=_lists_only("-l", "--list")),
        "remote": rule("-v --verbose", bare=True, subcommands={"get-url": rule("--all --push")}),
        "stash": rule(subcommands={"list": _log, "show": rule(f"{_DIFF} --include-untracked --only-untracked")}),
        "worktree": rule(subcommands={"list": rule("-v -z --verbose --porcelain", operands=0)}),
        "config": rule(
            "-l -z --list --get --get-all --get-regexp --global --local --system --worktree --name-only --show-origin "
            "--show-scope --includes --no-includes --null --bool --int --path --type= --default=",
            options_first=True,
            also=_config,
        ),
        "describe": rule(
            "--tags --all --always --long --exact-match --contains --first-parent --dirty? --broken? --abbrev? --match= "
            "--exclude= --candidates="
        ),
        "for-each-ref": rule(
            "--count= --sort= --format= --points-at= --contains=? --merged=? --no-merged=? --color?", forbidden="signature"
        ),
        "show-ref": rule("-s? -d -q --head --heads --tags --branches --dereference --hash? --verify --quiet --abbrev?"),
        "name-rev": rule("--tags --all --name-only --always --refs="),
        "merge-base": rule("-a --all --octopus --independent --is-ancestor --fork-point"),
        "grep": rule(
            "-NUM -n -i -l -L -w -v -h -H -E -F -G -P -c -o -q -I -a -W -p -z -e= -A= -B= -C= -m= -f= --cached --untracked "
            "--no-index --exclude-standard --line-number --column --ignore-case --files-with-matches --name-only "
            "--files-without-match --word-regexp --invert-match --count --only-matching --heading --break --color? --no-color "
            "--extended-regexp --fixed-strings --perl-regexp --max-depth= --and --or --not --all-match --full-name "
            "--show-function --function-context --context= --after-context= --before-context= --quiet --recurse-submodules "
            "--threads= --max-count= --text"
        ),
        "check-ignore": rule("-q -v -n --quiet --verbose --non-matching --no-index"),
        "check-attr": rule("-a --all --cached"),
        "count-objects": rule("-v -H --verbose --human-readable", operands=0),
        "version": rule("--build-options", operands=0),
    },
)
