"""Command lines for `test_idempotency`: what must be a read, and what must not although it looks like one.

One command a line; what follows two blanks and `##` explains it.
"""

from __future__ import annotations


def _commands(block: str) -> list[str]:
    lines = (line.partition("  ##")[0].strip(" ") for line in block.splitlines())
    return [line for line in lines if line]


READS = _commands(r"""
ls
ls -la
ls -lah src
ls -1 --color=never src/*.py
ls *
ls -d */ .[a-z]*
/bin/ls -l
/usr/bin/cat README.md
cat README.md
cat -n src/app.py
cat "notes with spaces.txt" 'README.md'
cat notes\ with\ spaces.txt
cat < README.md
cat README.md 2>/dev/null
cat *.md
cat {README.md,data.csv}
head README.md
head -20 README.md
head -n 5 src/app.py src/util.py
head -n -1 data.csv
head -c 100 data.csv
tail README.md
tail -5 data.csv
tail -n +2 data.csv
tail -n 3 -q data.csv
stat README.md
stat -c '%n %s' src/*.py
wc -l README.md
wc -l src/*.py | sort -n | tail -1
wc -lwc *
file README.md src/app.py
file --mime-type -b data.json
pwd
pwd -P
cd src
cd src && ls -la
cd src && cat app.py | head -40
cd src; pwd
cd / && ls -ld tmp
cd odd && cat *
cd odd && wc -l *  ## files there are named like options
cd odd && ls -l *
cd odd && grep -c x *
cd odd && sort -- *
cd odd && sort ./*
echo hello
echo "a > b; rm -rf / | tee x"
echo 'cost: $5 `x` $(y)'
echo "cost: \$5 \`x\`" and \$HOME \`id\`
echo "done" && echo 'more' >&2
echo a#b c=d {x} !
echo ~/src ~ HEAD~2
printf '%s\n' one two
printf "%-10s|%5d\n" name 7
true
false || true
test -f README.md
test -d src && echo yes || echo no
[ -f README.md ] && cat README.md
[ ! -e missing ] && echo missing
[ a = a -a b != c ]
[ -s data.csv -o -L link ]
which python3
which -a sh 2>/dev/null || echo none
type cat
type -a ls
whoami
id
id -un
groups
uname -a
hostname
date
date +%s
date -u '+%Y-%m-%d %H:%M'
date -d yesterday +%F
env
env | sort
env | grep -i path
printenv
printenv HOME PATH
nproc
arch
tty
uptime
free -m
free -h 2>&1 | head -2
df -h
df -h . 2>/dev/null
du -sh src
du -sh * | sort -rh | head
du -a --max-depth=1 .
ps aux
ps -ef | grep python
ps -eo pid,ppid,cmd --sort=-pid | head -5
ps axo pid,comm
pgrep -fl python
lscpu
getent passwd root
sleep 0.01
sleep 0 && cat data.csv
grep -n def src/app.py
grep -rn "import os" src
grep -rn foo --include=*.py .
grep -rni 'todo' . --include='*.py' --exclude-dir=.git | head -50
grep -E "^(def|class) " src/app.py
grep -E "foo|bar$" README.md
grep "x$" data.csv
grep -A3 -B 2 -C1 return src/app.py
grep foo\|bar README.md
grep -c '' data.csv
grep -l x -r src
grep -e foo -e bar README.md
grep -v -- -x README.md
grep -m1 -5 x data.csv
egrep -i 'a|b' README.md
fgrep -w a README.md
rg -n foo src
rg foo -g '*.py' -C 2
rg --files src
find . -name '*.py'
find . -type f -name "*.py" -not -path './.git/*' | head
find src -maxdepth 1 -type f -size +0 -mtime -1 -print
find . \( -name '*.md' -o -name '*.csv' \) -print0
find . ! -name '*.py' -type f
find src -perm -u+r -newer README.md -printf '%p %s\n'
find . -type d -empty -ls
find src/*.py -name app*
tree -L 2
tree -a -I .git
realpath README.md
readlink -f src
basename src/app.py .py
dirname src/app.py
md5sum README.md
sha256sum README.md src/*.py
sort data.csv
sort -t, -k2 -n data.csv
sort -k 2,2nr -t ',' data.csv | uniq
sort -u data.csv | uniq -c | sort -rn
uniq data.csv
uniq -c -f 1 data.csv
cut -d, -f1 data.csv
cut -d ',' -f 1-2 data.csv | sort -u
tr a-z A-Z < README.md
cat README.md | tr -d '\n' | wc -c
tr [:lower:] [:upper:] < data.csv
nl -ba src/app.py
nl src/app.py | sed -n '1,5p'
tac README.md
rev data.csv
paste -sd, data.csv
comm -12 data.csv data.csv
fold -w 40 README.md
column -s, -t data.csv
od -c data.csv | head -3
xxd data.csv | head -2
xxd -l 16 data.csv
hexdump -C data.csv
strings -n 4 README.md
base64 data.csv
base64 -w0 data.csv
diff README.md data.csv
diff -u src/app.py src/util.py
diff -rq src odd
cmp README.md data.csv
sed -n '1,5p' README.md
sed -n 2p src/app.py
sed -n -e '1p' -e '$p' data.csv
sed -n '/def /,/return/p' src/app.py
sed -n '/^[a-z_]*(/p;$=' src/app.py
sed -n '/[[:space:]]x/Ip' README.md
sed -n "2,4p;5q" data.csv
sed '/^$/d' README.md
sed '1!d' README.md
sed 's/a/b/g' README.md
sed -E 's|/usr/(bin\|lib)|X|; s/ +/ /' README.md
awk '{print $1}' README.md
awk -F, '{print $2, $1}' data.csv
awk -F ',' 'NR>1 {print $1 "-" $NF}' data.csv
awk 'NR>=2 && NR<=4' data.csv
awk 'NR==1,NR==3' data.csv
awk '/def/ {print NR ": " $0}' src/app.py
awk 'END{print NR}' data.csv
jq . data.json
jq -r '.name' data.json
cat data.json | jq '.items[] | .id'
jq --arg n x '.[$n]' data.json
seq 1 5
seq -s, 10 -2 1
git status
git status -s
git status --porcelain=v2 --branch
git --no-pager status
git -C . log --oneline
git log
git log --oneline -5
git log -n 3 --stat
git log -p -1
git log --oneline --graph --all --decorate
git log --format='%h %an %s' --since='2 weeks ago' -- src
git log -S 'def run' --pretty=oneline
git log -L 1,2:src/app.py
git log --oneline -- *.py
git --no-pager log --author=A --grep fix -i
git show
git show HEAD
git show HEAD:src/app.py
git show --stat HEAD~1
git show HEAD^ --name-only
git diff
git diff --stat
git diff HEAD~1 HEAD
git diff HEAD~1..HEAD -- src/app.py
git diff --cached
git diff --name-only HEAD~1 | head
git diff -U5 -w --no-color src/app.py
git diff --no-index README.md data.csv
git diff > /dev/null
git --no-pager diff HEAD -- .
git blame src/app.py
git blame -L 1,2 src/app.py
git ls-files
git ls-files -m -o --exclude-standard
git ls-files '*.py' | wc -l
git ls-tree -r HEAD --name-only
git rev-parse HEAD
git rev-parse --abbrev-ref HEAD
git rev-parse --show-toplevel --is-inside-work-tree
git rev-list --count HEAD
git branch
git branch -a
git branch -vv
git branch --show-current
git branch --list 'f*'
git branch --contains HEAD
git branch -r --merged
git tag
git tag -l 'v*'
git tag --list --sort=-creatordate
git remote
git remote -v
git remote get-url origin
git stash list
git stash show -p stash@{0}
git reflog
git reflog show HEAD
git config --get user.name
git config user.email
git config --list
git config --global --list
git describe --tags --always --dirty
git cat-file -p HEAD
git cat-file -t HEAD
git for-each-ref --format='%(refname:short)' refs/heads
git show-ref --heads
git merge-base HEAD HEAD~1
git grep -n def
git grep -n "import" -- '*.py'
git shortlog -sn HEAD
git worktree list
git check-ignore -v x.pyc
git count-objects -v
git --version
docker ps
docker ps -a
docker ps -aq --filter name=x
docker ps --format '{{.Names}}\t{{.Status}}'
docker container ls -a
docker images
docker image ls -q
docker inspect web
docker inspect -f '{{.State.Status}}' web
docker logs web
docker logs --tail 50 web 2>&1 | grep -i error
docker version
docker info
docker top web
docker port web
docker diff web
docker network ls
docker --version
pip list
pip list --format=freeze | grep -i pip
pip show pip
pip freeze
pip --version
python --version
python3 -V
python3 --version 2>&1
node --version
gcc --version | head -1
make --version
bash --version
dpkg -l | head
cat README.md | grep a | sort | uniq -c | sort -rn | head -5
ls missing 2>/dev/null; ls src
ls -la;
ls src && ls missing || echo none
cat src/app.py 1>/dev/null 2>&1
ls >>/dev/null
</dev/null cat
2>/dev/null ls missing
"ls" -la
\ls -la
git log --oneline|head -3&&git status -s
""")
READS += [
    "\n  ls -la\n",
    "\tls\t-la",
    "cat 'café ☕.txt'",
]

# Commands that change the workspace of the tests when they are run there: they show that a change would be seen.
WRITES_HERE = _commands(r"""
ls > listing
ls >> README.md
echo x >| README.md
cat README.md | tee copy
find . -name app.py -delete
find src -fprint found
find src -exec touch {}.bak \;
sort -o README.md data.csv
sort data.csv -oout
sort --outp=out data.csv  ## GNU accepts abbreviations
sort data.csv --o out
uniq data.csv out
uniq -c data.csv out
xxd data.csv out
xxd -pl 5 out  ## xxd overlooks the l: from the file 5 to out
sed -i 's/a/b/' README.md
sed -ni 1p README.md
sed -n 'w out' README.md
sed '1w out' README.md
sed 's/a/b/w out' README.md
sed 's/a/touch out/e' README.md
sed '1e touch out' README.md
sed -n -e 1p -e 'w out' README.md
sed --in-place=.bak 1d README.md
awk '{print > "out"}' README.md
awk 'BEGIN{system("touch out")}'
git diff --output=out HEAD~1
git log -1 --output=out
git show --output out
git branch newbranch
git branch -v newbranch
git branch --abbrev newbranch  ## --abbrev takes its value only glued
git tag v9
git stash
git stash -- README.md
git config user.name Other
git remote add other /tmp
git checkout -q -b other
git reflog expire --expire=now --all
git -c alias.log='!touch out' log
git -c core.fsmonitor='touch out' status
git -c diff.external='touch out' diff HEAD~1
git grep --open-files-in-pager='touch out' def
git grep -O'touch out' def
cat $(touch out)
cat `touch out`
cat "$(touch out)"
cat "`touch out`"
ls; touch out
ls && touch out
ls missing || touch out
ls | xargs touch out
ls & touch out
(touch out)
{ touch out; }
if true; then touch out; fi
! touch out
X=1 touch out
env touch out
env X=1 touch out
command touch out
exec touch out
eval 'touch out'
sh -c 'touch out'
nohup touch out
timeout 5 touch out
xargs touch < names
date -r README.md +%s | tee out
cp README.md out
cd src && touch out
cd odd && sort *  ## a file there is named --output=pwned
cd odd && git log *
: > README.md
""")

ATTACKS = [
    *WRITES_HERE,
    *_commands(r"""
## redirections
> f
>f ls
ls >f
ls 1>f
ls 2>f
ls 2>>f
ls &>f
ls &>>f
ls >&f
ls &>/dev/null  ## sh reads it as & and >
ls <>f
ls >/dev/null/../../tmp/f
ls >/dev/nullx
ls > /dev/null > f
ls >/dev/sda
ls > "f"
ls >\f
ls 3>f
ls 3>&1
ls 10>/dev/null
ls {fd}>/dev/null
ls 2>&-
ls >&-
ls 2>&1f
ls >&1f
ls >/dev/null* f
ls > *
ls >
ls >;
ls 2>
cat < *
cat <&3
cat << EOF
cat <<< x
cat < <(touch out)
cat <(touch out)
ls > >(tee out)
cat < /dev/tcp/127.0.0.1/80
cat < //dev//tcp/127.0.0.1/80
cat < /tmp/../dev/udp/127.0.0.1/80
cat /dev/watchdog
cat /dev/./tty
head -c 1 /dev/mem
grep --file=/dev/ttyS0 x
grep -f/dev/ttyS0 x
cat /proc/self/fd/3
cat /proc/kmsg
cat /sys/kernel/debug/tracing/trace_pipe
## expansions
ls $HOME
ls ${x:=y}
ls "$HOME"
ls "${x}"
ls $((x=1))
ls $'\n'
ls $"x"
ls $x
echo "a$b"
echo $(rm x)
echo `rm x`
echo "$(rm x)"
echo "\\$(rm x)"
echo \\$(rm x)
echo 'a'$(rm x)'b'
echo "'$(rm x)'"
echo ""`rm x`
echo '\'`rm x`
echo ~root/x
echo ~+ ~-
echo a=~/x
echo {Z..a}rm\ x{Z..a}  ## makes backquotes
echo {1..3}
echo !!
echo !rm
echo "!rm"
ls a!b
## operators and words of the shell
ls &
ls & rm x
ls &rm x
ls |& tee f
ls ;; rm x
ls ;& rm x
ls &&& rm x
ls ||| rm x
ls |
| ls
&& ls
ls &&
ls ||
; ls
ls ; ; ls
ls && ; ls
ls # rm x
# ls
ls () { rm x; }
ls() { rm x; }
function ls { rm x; }
(ls)
{ ls; }
{ ls
ls }; rm x
! ls
time ls
if ls; then ls; fi
while ls; do ls; done
for x in a; do ls; done
case x in x) ls;; esac
[[ -f x ]]
((x=1))
coproc ls
select x in a; do ls; done
A=1
A=1 ls
A+=1 ls
a[0]=1 ls
A= ls
export A=1
alias ls=rm
unset PATH
set -o noclobber
shopt -s extglob
source x
. ./x
trap 'rm x' EXIT
ulimit -c 0
umask 0
hash -r
builtin cd x
exit 0
read x
let x=1
declare x=1
cat @(a|b)
ls "x
ls 'x
ls \
'ls -la'
"ls;rm x"
l''s$x
*
l*
./ls
../ls
bin/ls
/tmp/ls
/usr/local/bin/ls
/bin/../tmp/ls
/usr/bin/../../tmp/ls
/bin/sub/ls
~/ls
LS
unknown-program
## programs that run others
sudo ls
su -c ls
doas ls
chroot / ls
nice ls
setsid ls
stdbuf -oL ls
script -c ls
strace ls
watch ls
parallel ls
xargs
xargs cat
ls | xargs rm
ls | sh
ls | bash
cat x | sh -s
cat x | python3
cat x | python3 -
cat x | perl
cat x | tee
cat x | tee f
cat x | tee /dev/null f
cat x | dd of=f
cat x | sponge x
cat x | at now
cat x | crontab -
cat x | docker load
cat x | git apply
cat x | patch -p1
cat x | sudo tee f
env ls
env -i ls
env -S 'ls'
env -u X
env A=1
bash -c ls
bash x
bash --version x
ssh host ls
busybox ls
time -o f ls
command -v ls rm
type rm; rm x
## programs for people, and such that never end
less f
more f
man ls
top
htop
vi f
view f
nano f
tail -f f
tail -F f
tail -5f f
tail -fn5 f
tail --follow f
tail --foll f
tail --follow=name f
tail --retry f
sleep infinity
docker logs -f web
docker logs --follow web
docker stats
docker events
## find
find . -delete
find . -name x -delete
find . -exec rm {} \;
find . -exec rm {} +
find . -exec cat {} +
find . -execdir rm {} \;
find . -ok rm {} \;
find . -okdir rm {} \;
find . -fprint f
find . -fprint0 f
find . -fprintf f %p
find . -fls f
find . -name '*' -or -delete
find . \( -delete \)
find . -'delete'
find . "-delete"
find . \-delete
find . -name -delete
find . -name
find . -maxdepth -delete
find . -maxdepth x
find . *
find * -name x
find . -name *
find . -name {x,-delete}
find -D exec .
find . -files0-from f
find . -- -delete
find -f x
## options that write, glued, abbreviated, late, quoted
sort -o f x
sort -of x
sort x -o f
sort x -o=f
sort -uo f x
sort -rnof x
sort --output=f x
sort --output f x
sort --out f x
sort '-o' f x
sort "-"o f x
sort \-o f x
sort -k -o f
sort -t -o f
sort -T /tmp x
sort -S 1 x
sort --temporary-directory=/tmp x
sort --compress-program=rm x
sort --comp=rm x
sort --files0-from=f
sort *
sort ?o x
sort {-o,f} x
sort -o* x
sort --rev x
uniq a b
uniq -- a b
uniq a -c b
uniq a -c
uniq -f 1 a b
uniq +1 a b
uniq - b
uniq x*
uniq {a,b}
xxd a b
xxd -r a
xxd -r -p a b
xxd -c 16 a b
xxd a*
xxd -ps 5 out
xxd -autoskip a b
xxd -R always a b
tree -o f
tree -R -L 1 -H .
tree -ao f
tree *
diff -l a b
diff --paginate a b
diff --pag a b
diff *
file -C -m x
file -Cm x
file --compile x
file --comp x
file -p x
file *
rg --pre rm x
rg --pre=rm x
rg --pre-glob '*' x
rg -z x
rg --search-zip x
rg --hostname-bin=rm x
rg x *
jq -i . f
jq --in-place . f
jq -f f
jq . *
base64 a b
date -s x
date -us x
date --set=x
date --se=x
date 01010000
date -u 01010000
date +%s 01010000
date 01010000 +%s
date -f f
date -- 01010000
date +*
date *
hostname x
hostname -F f
hostname -b x
hostname -- x
hostname -s x
env x
env -0 x
cut --out=x f
ss -K dst 1.2.3.4
ss -tK
ss -D f
netstat -c
free -s 1
dpkg -i x.deb
dpkg -P x
dpkg --log=f -l
nvidia-smi -pm 1
nvidia-smi --query-gpu=name --filename=f
nvidia-smi -f f
ps -Z --unknown
seq 1 2 --unknown
sleep 1 --x
which -i
cat --unknown x
cat -Q x
ls --unknown
ls -la --output=x
grep --unknown x
grep x --colorize=y
wc --files0-from f
du --files0-from=f
cd -
cd a b
cd *
pwd x
tar xf x.tar
tar tf x.tar
unzip x
gzip x
zcat x
cp a b
mv a b
rm x
ln -s a b
mkdir x
rmdir x
touch x
truncate -s 0 x
split x
csplit x 1
shuf -o f x
dd if=a of=b
install a b
rsync a b
chmod 600 x
chown a x
kill 1
pkill x
mkfifo x
mount
tee f
ed x
patch x
curl http://x
curl --version -o f http://x
wget http://x
make
make -n
make --version all
gcc x.c
npm --version
npm ls
cargo --version
go version
yarn --version
ldd x
printf -v x y
printf -v 'a[$(touch out)]' y
printf '%n' x
printf 'a%5.3ln' x
printf '%n' 'a[$(touch out)]'
printf '%d' 'a[$(touch out)]'  ## ksh counts what is in it
printf *
printf
test -v 'a[$(touch out)]'
[ -v 'a[$(touch out)]' ]
[ -R x ]
[ -f x
[ -f x ] rm
[ 'a[$(touch out)]' -eq 0 ]
[ 1 -eq 1 ]
[ * ]
test {-v,x}
## sed and awk
sed x
sed
sed -n
sed -i 1d f
sed -i.bak 1d f
sed -Ei 1d f
sed --in-place 1d f
sed --in-pl 1d f
sed 1d f -i
sed -n 1p f --in-place
sed -n 1p *.py  ## -i.py
sed -n *
sed -f script f
sed --file=script f
sed -nf script f
sed 'w f' x
sed 'W f' x
sed '1w f' x
sed '$w f' x
sed '1,2w f' x
sed '1!w f' x
sed '/x/w f' x
sed '\,x,w f' x
sed 'p;w f' x
sed '{w f
sed '{p;w f' x
sed 'r f' x
sed 'e rm x' x
sed 'e' x
sed '1e' x
sed 's/a/b/e' x
sed 's/a/b/ge' x
sed 's/a/b/w f' x
sed 's/a/b/gw f' x
sed 's/a/b/;w f' x
sed 's,a,b,w f' x
sed 's:a:b:w f' x
sed 's/[/]/w f/' x  ## where the regex ends depends on the sed
sed 's/a\/b/c/w f' x
sed '/[/]/w f' x
sed '/a\/b/w f' x
sed 's/a/b' x
sed 's/a/b/p w f' x
sed -e p -e 'w f' x
sed -e 'w f' x
sed --expression='w f' x
sed --expression 'w f' x
sed -n -- 'w f' x
sed 'w f' -e p x  ## a script where options end at the first operand
sed 'a x' f
sed 'b' f
sed ':a;p;ba' f
sed "1{p;w f" x
sed p{,w} f
awk '{print > "f"}' x
awk '{print >> "f"}' x
awk '{print | "sh"}' x
awk '{print $1 > $2}' x
awk '{"date" | getline}' x
awk '{system("x")}' x
awk '{print system("x")}' x
awk 'BEGIN{while(("x"|getline)>0);}'
awk '/[/]/{print > "f"}/]/' x
awk '{print "a\"" > "f"}' x
awk '{print $1; print > "f"}' x
awk '{print $1} {print > "f"}' x
awk '{getline < "f"}' x
awk '{close("f")}' x
awk -f prog x
awk -i inplace '{print}' x
awk -v x=1 '{print}' x
awk --file=prog x
awk -F , -f prog x
awk '{print}' -f prog
awk '{print}' *
awk
gawk -e '{print > "f"}' x
## git
git
git --exec-path=/tmp status | sh
git --exec-path=/tmp status
git -c x.y=z status
git -c core.pager='rm x' -p log
git -p log
git --paginate log
git --config-env=core.pager=X log
git --git-dir=/x status
git -C
git -- status
git st
git add .
git am x
git apply x
git apply --check x
git archive HEAD -o f
git archive --output=f HEAD
git bisect start
git branch x
git branch -d x
git branch -D x
git branch -m x
git branch -M a b
git branch -c a
git branch -f x HEAD
git branch -u origin/x
git branch --set-upstream-to=origin/x
git branch --unset-upstream
git branch --edit-description
git branch --track x origin/x
git branch -l x  ## made a branch and its reflog in old versions
git branch -a x
git branch -r x
git branch -vv x
git branch --color x
git branch --sort=refname x
git branch --column x
git branch --no-contains x y
git branch --list -D x
git branch --merged -D x
git branch --delete x
git branch --del x
git branch --show-current x
git branch *
git branch --format='%(signature)'
git bundle create f HEAD
git cat-file --filters HEAD:x
git cat-file --textconv HEAD:x
git checkout x
git checkout -- .
git cherry-pick x
git clean -fd
git clean -n
git clone x
git commit -m x
git commit --dry-run
git config x.y z
git config --add x.y z
git config --unset x.y
git config --unset-all x.y
git config --replace-all x.y z
git config --get x.y z extra
git config --edit
git config -e
git config edit
git config set x.y z
git config unset x.y
git config --global x.y z
git config --file=f x.y
git config -f f x.y z
git config --remove-section x
git config --rename-section x y
git config x.y z --get
git config --list x.y
git credential fill
git daemon
git describe --output=x
git diff --output f
git diff --output=f
git diff --outpu=f
git diff --ext-diff
git diff --textconv
git diff -O order
git diff HEAD --output=f
git diff '--output=f'
git diff "--out"put=f
git diff {--output=f,HEAD}
git diff *
git diff > f
git diff | git apply
git difftool
git fetch
git filter-branch
git for-each-ref --format='%(signature)'
git for-each-ref --sort=signature
git format-patch HEAD~1
git fsck --lost-found
git gc
git grep -O x
git grep -Oless x
git grep -nO x
git grep --open-files-in-pager x
git grep --open x
git grep --textconv x
git hash-object -w f
git help log
git init
git log --output=f
git log -1 -p --output f
git log --ext-diff -p
git log --textconv -p
git log --remerge-diff
git log --show-signature
git log --format=%G?
git log --format='%h %GG'
git log --pretty='%+GK'
git log --pretty=format:'%(signature)'
git log *.py
git log -O x
git ls-files --unknown
git ls-remote ext::sh
git ls-remote
git maintenance run
git merge x
git merge-tree a b
git mergetool
git mv a b
git notes add
git notes list
git prune
git pull
git push
git push --dry-run
git rebase x
git reflog delete HEAD@{0}
git reflog expire --all
git reflog HEAD
git remote add x y
git remote -v add x y
git remote -- add x y
git remote remove x
git remote rm x
git remote rename a b
git remote set-url x y
git remote show origin
git remote update
git remote prune x
git repack
git replace a b
git rerere
git reset
git reset --hard
git restore x
git rev-parse HEAD | tee f
git revert x
git rm x
git send-email
git show --output=f HEAD
git show --ext-diff HEAD
git show HEAD~1 --outp f
git show {HEAD,--output=f}
git show HEAD:x > f
git show HEAD@{1..2}
git sparse-checkout list
git stash
git stash -q list
git stash push
git stash pop
git stash apply
git stash drop
git stash clear
git stash store x
git stash branch x
git stash list --output=f
git stash show --output=f
git status --unknown
git status; git add .
git submodule update
git submodule foreach rm x
git switch x
git symbolic-ref HEAD refs/heads/x
git tag x
git tag -a x
git tag -d x
git tag -f x
git tag -m x y
git tag -n x
git tag --sort=x v1
git tag --contains HEAD x
git tag -v x
git tag --list -d x
git update-index --refresh
git update-ref refs/x HEAD
git var GIT_EDITOR
git verify-commit HEAD
git worktree add x
git worktree list x
git worktree prune
git write-tree
git --version --exec-path=x status
gitk
## docker, pip
docker
docker -H tcp://x ps
docker --config=/x ps
docker run x
docker exec web ls
docker rm web
docker rmi x
docker stop web
docker kill web
docker start web
docker cp web:/x .
docker pull x
docker build .
docker commit web x
docker save x -o f
docker save x
docker export web
docker attach web
docker login
docker system prune
docker system prune -f
docker system events
docker container rm web
docker container prune
docker container exec web ls
docker container
docker image rm x
docker image prune
docker image save x
docker images -q | xargs docker rmi
docker network rm x
docker network create x
docker volume rm x
docker volume prune
docker compose up
docker compose ps
docker context use x
docker ps --unknown
docker ps -a x
docker ps -q | xargs docker rm
docker logs web x
docker logs web > f
docker top web -o pid
docker inspect $(docker ps -q)
docker swarm init
pip install x
pip uninstall x
pip download x
pip wheel x
pip cache purge
pip config set x y
pip list --log f
pip list --log=f
pip --log f list
pip list -o
pip list --outdated
pip list --out
pip show pip --log=f
pip freeze > f
pip freeze -r f
pip check x
python3
python3 x.py
python3 -c 'x'
python3 -m pip list
python3 --version x
python3 -V -c 'x'
python3 - --version
node -e x
node x.js
perl -e x
ruby -e x
java -version x
java -jar x
"""),
    "",
    " ",
    "\n",
    "ls\nrm x",
    "ls\n\nls",
    "ls \\\n-la",
    "ls\\\nrm x",
    "ls 'a\nb'",
    'ls "a\nb"',
    "ls\r",
    "ls\r\nrm x",
    "ls\x0brm x",
    "ls\x0crm x",
    "ls\x00rm x",
    "ls '\x00'",
    "ls \x1b[2J",
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
    "cat << EOF\nx\nEOF",
    "cat <<'EOF' > f\nx\nEOF",
    "git status\ngit add .",
    "sed -n '1p\nw f' x",
    "awk '{print}\n{print > \"f\"}' x",
]
