"""The programs that are known to only read, and what they may be told.

An option is listed when every implementation in use (GNU, busybox, util-linux, procps) prints and nothing else. What is left out on
purpose: options that write (`sort -o`), that run another program (`rg --pre`, `diff --paginate`), that never end (`tail -f`), and programs
whose mere start writes (npm keeps logs), downloads (rustup's and go's version switches) or waits for a person (`less`, `top`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from remote_env._reads import programs
from remote_env._reads.git import GIT
from remote_env._reads.rule import ReadRule, rule

_SUMS = rule(
    "-b -c -t -w -z -s --binary --check --text --tag --quiet --status --strict --warn --ignore-missing --zero", no_option_writes=True
)
_GREP = rule(
    "-NUM -abcEFGhHiIlLnopPqrRsTUvVwxyzZ -e= -f= -m= -A= -B= -C= -d= -D= --regexp= --file= --max-count= "
    "--after-context= --before-context= --context= --include= --exclude= --exclude-dir= --exclude-from= "
    "--binary-files= --directories= --devices= --label= --color? --colour? --extended-regexp --fixed-strings "
    "--basic-regexp --perl-regexp --ignore-case --no-ignore-case --invert-match --word-regexp --line-regexp --count "
    "--files-with-matches --files-without-match --only-matching --quiet --silent --no-messages --byte-offset "
    "--with-filename --no-filename --line-number --initial-tab --null --null-data --text --recursive "
    "--dereference-recursive --line-buffered --version",
    no_option_writes=True,
)
_AWK = rule("-F= --field-separator=", options_first=True, also=programs.awk)
_VERSION = rule(instead=programs.only("--version"))
_NO_ARGUMENTS = rule(operands=0)
_PYTHON = rule(instead=programs.only("--version", "-V", "-VV"))
_PIP = rule(
    "--version -V",
    bare=True,
    subcommands={
        "list": rule(
            "-l -e -v --local --user --editable --exclude-editable --not-required --format= --verbose --disable-pip-version-check"
        ),
        "show": rule("-f -v --files --verbose --disable-pip-version-check"),
        "freeze": rule("-l --local --user --all --exclude-editable --exclude= --disable-pip-version-check"),
        "check": rule("--disable-pip-version-check", operands=0),
    },
)

_FORMAT = "-f= --format="
_DOCKER_PS = rule(f"-a -q -n= -l -s --all --quiet --last= --latest --size --no-trunc --filter= {_FORMAT}", operands=0)
_DOCKER_IMAGES = rule("-a -q -f= --all --quiet --digests --no-trunc --filter= --format=")
_DOCKER_LOGS = rule("-n= -t --tail= --since= --until= --timestamps --details", operands=1)
_DOCKER_INSPECT = rule(f"-s --size --type= {_FORMAT}")
_DOCKER_LIST = rule("-q -f= --quiet --no-trunc --filter= --format=", operands=0)
_DOCKER_READS_CONTAINER = {
    "logs": _DOCKER_LOGS,
    "top": rule(operands=1),  # further operands are options of the host's ps
    "port": rule(),
    "diff": rule(operands=1),
    "inspect": _DOCKER_INSPECT,
}
_DOCKER = rule(
    "-v --version",
    bare=True,
    subcommands={
        **_DOCKER_READS_CONTAINER,
        "ps": _DOCKER_PS,
        "images": _DOCKER_IMAGES,
        "history": rule("-q -H --quiet --human --no-trunc --format="),
        "version": rule(_FORMAT, operands=0),
        "info": rule(_FORMAT, operands=0),
        "container": rule(subcommands={**_DOCKER_READS_CONTAINER, "ls": _DOCKER_PS, "list": _DOCKER_PS, "ps": _DOCKER_PS}),
        "image": rule(subcommands={"ls": _DOCKER_IMAGES, "list": _DOCKER_IMAGES, "inspect": _DOCKER_INSPECT}),
        "network": rule(subcommands={"ls": _DOCKER_LIST, "list": _DOCKER_LIST, "inspect": _DOCKER_INSPECT}),
        "volume": rule(subcommands={"ls": _DOCKER_LIST, "list": _DOCKER_LIST, "inspect": _DOCKER_INSPECT}),
        "system": rule(subcommands={"df": rule("-v --verbose --format=", operands=0), "info": rule(_FORMAT, operands=0)}),
    },
)

DEFAULT_RULES: Mapping[str, ReadRule] = MappingProxyType(
    {
        # files and directories
        "cat": rule(
            "-AbeEnstTuv --number --number-nonblank --show-all --show-ends --show-tabs --show-nonprinting --squeeze-blank",
            no_option_writes=True,
        ),
        "head": rule("-NUM -n= -c= -q -v -z --lines= --bytes= --quiet --silent --verbose --zero-terminated", no_option_writes=True),
        "tail": rule("-NUM -n= -c= -q -v -z --lines= --bytes= --quiet --silent --verbose --zero-terminated", no_option_writes=True),
        "ls": rule(
            "-aAbBcCdDfFgGhHiIkKlLmnNopqQrRsStuUvwxXZ1 -I= -w= -T= --all --almost-all --author --escape --block-size= "
            "--ignore-backups --color? --directory --classify? --file-type --format= --full-time --group-directories-first "
            "--no-group --human-readable --si --hide= --ignore= --inode --indicator-style= --dereference --numeric-uid-gid "
            "--literal --quote-name --reverse --recursive --size --sort= --time= --time-style= --width= --context --zero",
            no_option_writes=True,
        ),
        "stat": rule("-f -L -t -c= -Z --format= --printf= --file-system --dereference --terse", no_option_writes=True),
        "file": rule(
            "-bhikLNnr0 -F= --brief --mime --mime-type --mime-encoding --dereference --no-dereference --separator= --extension --version"
        ),
        "find": rule(instead=programs.find),
        "tree": rule(
            "-adfhilnpsugtrvxACDFNQSJX -L= -P= -I= --dirsfirst --noreport --du --si --prune --inodes --device --filelimit= "
            "--charset= --gitignore --version"
        ),
        "du": rule(
            "-0abcDhHkLlmsSx -d= -t= -X= --all --apparent-size --block-size= --bytes --total --human-readable --si "
            "--max-depth= --summarize --separate-dirs --exclude= --one-file-system --threshold= --time? --dereference "
            "--count-links --inodes",
            no_option_writes=True,
        ),
        "df": rule(
            "-ahHiklmPTv -B= -t= -x= --all --human-readable --si --inodes --local --portability --print-type --total --output? --type=",
            no_option_writes=True,
        ),
        "readlink": rule(
            "-femnqsvz --canonicalize --canonicalize-existing --canonicalize-missing --no-newline --zero", no_option_writes=True
        ),
        "realpath": rule(
            "-emLPqsz --relative-to= --relative-base= --canonicalize-existing --canonicalize-missing --no-symlinks --strip",
            no_option_writes=True,
        ),
        "basename": rule("-a -s= -z --multiple --suffix= --zero", no_option_writes=True),
        "dirname": rule("-z --zero", no_option_writes=True),
        "cd": rule("-LPe", operands=1, also=programs.change_directory),
        "pwd": rule("-LP", operands=0),
        **dict.fromkeys(("md5sum", "sha1sum", "sha224sum", "sha256sum", "sha384sum", "sha512sum", "b2sum"), _SUMS),
        "cksum": rule(no_option_writes=True),
        # text
        **dict.fromkeys(("grep", "egrep", "fgrep"), _GREP),
        "rg": rule(
            "-NUM -cFHhiIlLnNopPqsSuUvwxa -e= -f= -g= -t= -T= -m= -A= -B= -C= -d= -j= -r= --after-context= --before-context= "
            "--context= --glob= --iglob= --type= --type-not= --type-list --files --files-with-matches --files-without-match "
            "--fixed-strings --ignore-case --smart-case --case-sensitive --invert-match --line-number --no-line-number "
            "--with-filename --no-filename --word-regexp --line-regexp --only-matching --count --count-matches --hidden "
            "--no-hidden --no-ignore --no-ignore-vcs --follow --multiline --max-count= --max-depth= --heading --no-heading "
            "--color= --column --json --null --stats --sort= --sortr= --trim --vimgrep --regexp= --pcre2 --replace= --quiet "
            "--no-messages --unrestricted --text --max-columns= --no-config --version"
        ),
        "wc": rule("-clmLw --bytes --chars --lines --words --max-line-length --total=", no_option_writes=True),
        "sort": rule(
            "-bcCdfghiMmnrRsuVz -k= -t= --key= --field-separator= --reverse --unique --numeric-sort --general-numeric-sort "
            "--human-numeric-sort --version-sort --month-sort --random-sort --ignore-case --ignore-leading-blanks "
            "--dictionary-order --check? --stable --merge --zero-terminated"
        ),
        "uniq": rule(
            # The second operand is the output file.
            "-cdDiuz -f= -s= -w= --count --repeated --unique --ignore-case --skip-fields= --skip-chars= --check-chars= "
            "--all-repeated? --zero-terminated",
            operands=1,
            options_first=True,
        ),
        "cut": rule(
            "-nsz -b= -c= -d= -f= --bytes= --characters= --delimiter= --fields= --complement --only-delimited "
            "--output-delimiter= --zero-terminated",
            no_option_writes=True,
        ),
        "tr": rule("-cCdst --complement --delete --squeeze-repeats --truncate-set1", no_option_writes=True),
        "nl": rule(
            "-p -b= -d= -f= -h= -i= -l= -n= -s= -v= -w= --body-numbering= --number-format= --number-width= --number-separator=",
            no_option_writes=True,
        ),
        "tac": rule("-br -s= --before --regex --separator=", no_option_writes=True),
        "rev": rule(no_option_writes=True),
        "paste": rule("-sz -d= --serial --delimiters= --zero-terminated", no_option_writes=True),
        "join": rule("-iz -a= -e= -j= -o= -t= -v= -1= -2= --ignore-case --header", no_option_writes=True),
        "comm": rule("-123z --output-delimiter= --total --zero-terminated --check-order --nocheck-order", no_option_writes=True),
        "fold": rule("-bs -w= --width= --spaces --bytes", no_option_writes=True),
        "column": rule("-txeJ -c= -s= -o= -N= -R= --table --separator= --output-separator= --columns=", no_option_writes=True),
        "expand": rule("-i -t= --tabs= --initial", no_option_writes=True),
        "unexpand": rule("-a -t= --tabs= --all --first-only", no_option_writes=True),
        "od": rule(
            "-abcdfilosvx -w? -A= -j= -N= -t= --address-radix= --skip-bytes= --read-bytes= --format= --width?", no_option_writes=True
        ),
        "hexdump": rule("-bcCdovx -e= -n= -s=", no_option_writes=True),
        "xxd": rule(instead=programs.xxd),
        "strings": rule("-NUM -a -f -n= -t= -e= --all --bytes= --radix= --encoding= --print-file-name", no_option_writes=True),
        "base64": rule("-d -w= --decode --wrap= --ignore-garbage", operands=1),
        "diff": rule(
            "-NUM -abBcdeEinNpqrstTuwyZ -C= -I= -S= -U= -W= -x= -X= -F= --brief --recursive --new-file --unified? --context? "
            "--side-by-side --width= --suppress-common-lines --ignore-all-space --ignore-space-change --ignore-blank-lines "
            "--ignore-case --ignore-matching-lines= --ignore-trailing-space --strip-trailing-cr --text --color? --label= "
            "--exclude= --exclude-from= --report-identical-files --minimal --show-function-line= --show-c-function "
            "--no-dereference --normal --rcs --ed --left-column --starting-file= --speed-large-files"
        ),
        "cmp": rule("-bls -i= -n= --print-bytes --verbose --quiet --silent --bytes= --ignore-initial="),
        "sed": rule(
            "-nErsuz -e= --expression= --quiet --silent --regexp-extended --separate --unbuffered --null-data --posix --sandbox --version",
            options_first=True,
            also=programs.sed,
        ),
        **dict.fromkeys(("awk", "gawk", "mawk"), _AWK),
        "jq": rule(
            "-acCeMnrRsSj --ascii-output --compact-output --color-output --exit-status --monochrome-output --null-input "
            "--raw-output --raw-input --slurp --sort-keys --join-output --tab --indent= --arg== --argjson== --slurpfile== "
            "--rawfile== --seq --version"
        ),
        "seq": rule("-w -f= -s= --equal-width --format= --separator=", negative_numbers=True),
        # the shell
        "echo": rule(instead=programs.anything),
        "printf": rule(instead=programs.printf),
        "true": rule(instead=programs.anything),
        "false": rule(instead=programs.anything),
        "test": rule(instead=programs.test),
        "[": rule(instead=programs.bracket),
        "type": rule("-aftpP", no_option_writes=True),
        "which": rule("-as --all", no_option_writes=True),
        "sleep": rule(also=programs.sleep),  # changes nothing, and waits for what the next command reads
        # the system
        "whoami": _NO_ARGUMENTS,
        "id": rule("-gGnruzZ --user --group --groups --name --real --zero"),
        "groups": rule(),
        "uname": rule(
            "-asnrvmpio --all --kernel-name --nodename --kernel-release --kernel-version --machine --processor --operating-system",
            operands=0,
        ),
        "arch": _NO_ARGUMENTS,
        "nproc": rule("--all --ignore=", operands=0),
        "tty": rule("-s", operands=0),
        "hostname": rule("-dfiIs --domain --fqdn --long --ip-address --all-ip-addresses --short", operands=0),  # an operand sets it
        "date": rule(
            "-uR -I? -d= -r= --utc --universal --rfc-email --rfc-2822 --iso-8601? --rfc-3339= --date= --reference=",
            operands=1,
            options_first=True,
            also=programs.date,
        ),
        "env": rule("-0 --null", operands=0),  # an operand is an assignment or a command
        "printenv": rule("-0 --null"),
        "locale": rule("-akmc"),
        "getent": rule("-is"),
        "ps": rule(
            "-aAcdefFHjlLMNTwyZ -C= -g= -G= -k= -o= -O= -p= -q= -s= -t= -u= -U= --pid= --ppid= --user= --group= --tty= "
            "--sort= --format= --forest --headers --no-headers --no-heading --width= --cols= --deselect",
            also=programs.ps,
        ),
        "pgrep": rule(
            "-acfilnovwx -u= -U= -P= -g= -G= -s= -t= -d= --full --list-name --list-full --count --exact --newest --oldest --parent= --euid="
        ),
        "pidof": rule("-sx"),
        "free": rule("-bghkltwmvV --bytes --kilo --mega --giga --human --si --total --wide --lohi", operands=0),
        "uptime": rule("-psV --pretty --since", operands=0),
        "lscpu": rule("-J --json", operands=0),
        "lsblk": rule("-abdfilmnpJ -o= --all --bytes --fs --json --list --output= --paths"),
        "nvidia-smi": rule("-L --list-gpus --query-gpu= --format=", operands=0),
        "ss": rule("-046aehilmnoprstuwx"),
        "netstat": rule("-aeginlprstuwx"),
        "dpkg": rule("-l -s -L -S --list --status --listfiles --search --print-architecture"),
        "lsb_release": rule("-acdirs --all --codename --description --id --release --short", operands=0),
        # programs with subcommands
        "git": GIT,
        "docker": _DOCKER,
        **dict.fromkeys(("pip", "pip3"), _PIP),
        # versions
        **dict.fromkeys(("python", "python2", "python3", *(f"python3.{minor}" for minor in range(6, 20))), _PYTHON),
        **dict.fromkeys(("bash", "cc", "clang", "cmake", "curl", "g++", "gcc", "gdb", "ld", "make", "perl", "ruby"), _VERSION),
        "node": rule(instead=programs.only("--version", "-v")),
        "java": rule(instead=programs.only("-version", "--version")),
    }
)
