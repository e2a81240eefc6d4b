/*
 * How a session's shell is made to run commands (session.c has what is said over its descriptors).
 *
 * bash runs interactively, so that an interrupt, an unset variable or a syntax error brings it back to where it reads
 * commands, which is a memory file on descriptor 0: each line starts the driver, as does PROMPT_COMMAND. The driver is a loop:
 * say what became of the last command, wait for a number, read the command, evaluate it with the driver's own descriptors
 * closed and /dev/null as its standard input. What it does for itself goes to /dev/null, whatever traces and traps there are.
 *
 * Another shell runs interactively as well and reads from `go` itself: two lines for each command, to run it and to say what
 * became of it. Each is a packet, so that a shell that throws away what it has read ahead does not lose the second.
 */
#include "link.h"

#include <fcntl.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* bash: below what `ulimit -n` is likely to be set to, above what scripts use */
enum { GO = 40, TEXT, STATUS, NOTHING, OUT, ERR, TRAPS_OUT, TRAPS_IN, TERMINAL, PLACES_END };
enum { PLAIN_TEXT = 4, PLAIN_OUT, PLAIN_ERR, PLAIN_TERMINAL, PLAIN_STATUS = 9 }; /* and 8; one digit is all that it can */

#define EVALUATE(redirections) \
    "\\builtin eval \"${REMOTE_ENV_COMMAND[0]-}\" " redirections " 40<&- 41<&- 42>&- 43>&- 46<&- 47>&- 48>&-"
#define PLAINLY EVALUATE("<&43")
#define HIDDENLY EVALUATE("<&\"${REMOTE_ENV[5]}\" >&44 2>&45 44>&- 45>&-")

#define REPORT "\\builtin printf \"%s %s\\n\" \"${REMOTE_ENV[0]}\" \"${REMOTE_ENV_WAS[0]}\" >&42; "

/*
 * REMOTE_ENV: [0] number, [1] last status, [2] this text, [3] "x" under set -x, [4] not empty: what is around the command would
 * show, [5] its standard input, [6] [7] its output, [8] what keeps its status where eval must not fail, [9] not empty: a
 * command was read. All are arrays, since these are never exported.
 */
static const char bash_setup[] =
    "exec >&44 2>&45 44>&- 45>&-; set +o history +m; PS1='\\[\\]' PS2=; _remote_env() { return \"$1\"; }; "
    "REMOTE_ENV=([0]=0 [8]=$'\\n{ REMOTE_ENV_WAS=($?); } 2>/dev/null' [2]='"
    "while { REMOTE_ENV_WAS+=($?); } 2>&43; do while { "
    "REMOTE_ENV_NOW=($?); "
    "case $- in *x*) \\builtin set +x; REMOTE_ENV[3]=x REMOTE_ENV[4]=x;; *) REMOTE_ENV[3]= REMOTE_ENV[4]=;; esac; "
    "[[ ${REMOTE_ENV_WAS[0]-} ]] || REMOTE_ENV_WAS=(${REMOTE_ENV_NOW[0]}); "
    "[[ ${PROMPT_COMMAND-} == \"${REMOTE_ENV[2]}\" ]] || "
    "{ \\builtin unset PROMPT_COMMAND; \\builtin declare PROMPT_COMMAND=\"${REMOTE_ENV[2]}\"; \\builtin declare +x PROMPT_COMMAND; }; "
    "\\builtin declare -F _remote_env || _remote_env() { return \"$1\"; }; "
    "\\builtin jobs; " /* bash forgets those that it has told of */
    REPORT
    "while :; do IFS=\" \" \\builtin read -r -u 40 -a REMOTE_ENV_GO || (( $? > 128 )) || \\builtin exit; " /* TMOUT holds for read, too */
    "if [[ ${REMOTE_ENV_GO[0]-} != \"${REMOTE_ENV_GO[1]-x}\" ]]; then " REPORT /* the rest of a line that an interrupt took */
    "elif [[ ${REMOTE_ENV_GO[0]} != \"${REMOTE_ENV[0]}\" ]]; then break; fi; done; "
    "REMOTE_ENV[0]=${REMOTE_ENV_GO[0]}; "
    "IFS= \\builtin read -r -d \"\" -u 41 -a REMOTE_ENV_COMMAND; "
    "REMOTE_ENV[1]=${REMOTE_ENV_WAS[0]} REMOTE_ENV[5]=43 REMOTE_ENV[6]=1 REMOTE_ENV[7]=2; "
    "case ${REMOTE_ENV_GO[2]} in t) REMOTE_ENV[4]=t REMOTE_ENV[5]=48 REMOTE_ENV[6]=48 REMOTE_ENV[7]=48;; "
    "x) REMOTE_ENV_COMMAND=(\"_remote_env 130\");; esac; "
    "REMOTE_ENV_GO=($-); \\builtin trap -p DEBUG ERR >&47; \\builtin echo . >&47; "
    "while IFS=\" \" \\builtin read -r -u 46 -a REMOTE_ENV_TRAP && [[ ${REMOTE_ENV_TRAP[*]} != . ]]; do "
    "case ${REMOTE_ENV_TRAP[*]} in *DEBUG) REMOTE_ENV[4]=d;; *ERR) REMOTE_ENV_GO+=(e);; esac; done; "
    "case \"${REMOTE_ENV_GO[*]}\" in *e*) " /* eval fails with its command: a second time for set -e and the ERR trap */
    "case \"${REMOTE_ENV_COMMAND[0]}\" in *\"<<\"* | *\\\\) ;; *) REMOTE_ENV_COMMAND[0]+=${REMOTE_ENV[8]};; esac;; esac; "
    "REMOTE_ENV_WAS=() REMOTE_ENV[9]=1; "
    "} >&43 2>&43; do "
    "if { [[ ${REMOTE_ENV[4]} ]]; } >&43 2>&43; then "
    "{ [[ ${REMOTE_ENV[3]} ]] && \\builtin set -x; "
    "if [[ ${REMOTE_ENV[1]} == 0 ]]; then " HIDDENLY "; else _remote_env \"${REMOTE_ENV[1]}\" || " HIDDENLY "; fi; "
    "} 44>&\"${REMOTE_ENV[6]}\" 45>&\"${REMOTE_ENV[7]}\" >&43 2>&43; "
    "elif [[ ${REMOTE_ENV[1]} == 0 ]]; then " PLAINLY "; else _remote_env \"${REMOTE_ENV[1]}\" || " PLAINLY "; fi; "
    "done; " /* a command said break; or the driver has lost its descriptors */
    "{ [[ ${REMOTE_ENV[9]-} ]] || \\builtin exit; REMOTE_ENV[9]=; } >&43 2>&43; done"
    "'); PROMPT_COMMAND=${REMOTE_ENV[2]}\n";
static const char bash_again[] =
    "{ REMOTE_ENV_WAS=($?); \\builtin unset PROMPT_COMMAND; \\builtin declare PROMPT_COMMAND=\"${REMOTE_ENV[2]}\"; } "
    "2>/dev/null || \\builtin eval \"${REMOTE_ENV[2]}\"\n";
#define AGAIN 200 /* times that a command may set PROMPT_COMMAND and be interrupted */

/* By the file's own name: in some images sh is a link to bash. */
bool shell_is_bash(const char *program)
{
    char file[PATH_MAX];
    const char *name = strrchr(realpath(program, file) ? file : program, '/');
    return strcmp(name ? name + 1 : program, "bash") == 0;
}

void shell_arguments(char *const *argv, bool bash, char *out[SHELL_ARGUMENTS])
{
    static char norc[] = "--norc", noprofile[] = "--noprofile", noediting[] = "--noediting", interactive[] = "-i";
    bool login = argv[1] != NULL;
    unsigned n = 0;
    out[n++] = argv[0];
    if (bash) {
        out[n++] = noediting;
        out[n++] = norc;
        if (!login)
            out[n++] = noprofile;
    }
    if (login)
        out[n++] = argv[1];
    out[n++] = interactive;
    out[n] = NULL;
}

static int written(int fd, const char *text, size_t size)
{
    return fd >= 0 && write(fd, text, size) == (ssize_t)size;
}

static int script(void)
{
    int fd = memfd_create("shell", MFD_CLOEXEC);
    bool whole = written(fd, bash_setup, sizeof bash_setup - 1);
    for (unsigned i = 0; whole && i < AGAIN; i++)
        whole = written(fd, bash_again, sizeof bash_again - 1);
    return whole && lseek(fd, 0, SEEK_SET) == 0 ? fd : -1;
}

/* To where nothing is in the way of the places. */
static int aside(int fd)
{
    return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, PLACES_END);
}

static bool put(int fd, int place)
{
    return fd < 0 || dup2(fd, place) == place;
}

int shell_arm(const struct ends *ends, bool bash)
{
    static const char plain_setup[] = "exec >&5 2>&6 5>&- 6>&-; set +m; PS1= PS2= REMOTE_ENV=0 REMOTE_ENV_N=0 REMOTE_ENV_SAID=0; "
        "_remote_env() { return \"$1\"; }; echo 0 255 >&9\n";
    int go = aside(ends->go), text = aside(ends->text), status = aside(ends->status), terminal = aside(ends->terminal);
    int out = aside(ends->out[0]), err = aside(ends->out[1] < 0 ? ends->out[0] : ends->out[1]), null = aside(0);
    if (go < 0 || text < 0 || status < 0 || out < 0 || err < 0 || null < 0)
        return errno;
    if (!bash) {
        fcntl(ends->go_on, F_SETFL, O_NONBLOCK | O_DIRECT); /* of the init's end, too: packets from here on */
        return put(go, 0) && put(null, 1) && put(null, 2) && put(text, PLAIN_TEXT) && put(status, PLAIN_STATUS)
            && put(terminal, PLAIN_TERMINAL) && put(out, PLAIN_OUT) && put(err, PLAIN_ERR)
            && written(ends->go_on, plain_setup, sizeof plain_setup - 1) ? 0 : errno;
    }
    int traps[2] = {-1, -1}, lines = script();
    if (lines < 0 || pipe2(traps, O_CLOEXEC))
        return errno;
    return put(go, GO) && put(text, TEXT) && put(status, STATUS) && put(null, NOTHING) && put(out, OUT) && put(err, ERR)
        && put(aside(traps[0]), TRAPS_OUT) && put(aside(traps[1]), TRAPS_IN) && put(terminal, TERMINAL)
        && put(lines, 0) && put(null, 1) && put(null, 2) ? 0 : errno;
}

static bool send_line(const struct session *s, const char *line)
{
    size_t length = strlen(line);
    /* A full pipe holds what makes it speak, and then it is sent this again. */
    return write(s->go, line, length) == (ssize_t)length || errno == EAGAIN;
}

/* What to run is sourced, from a descriptor that its own first words close (SHELL_FIRST). */
#define SOURCE(inside, outside) "{ . /proc/self/fd/8" inside "; } " outside " 8<&4 4<&- 7>&- 9>&-"
/* PS1: the next prompt would be seen. */
#define KEEP "{ REMOTE_ENV=$? REMOTE_ENV_SAID=$REMOTE_ENV_N PS1=; } 2>/dev/null"

bool shell_ask(const struct session *s)
{
    return !s->plain || send_line(s, "{ case $REMOTE_ENV_SAID in \"$REMOTE_ENV_N\") ;; *) " KEEP ";; esac; "
        "\\printf \"%s %s\\n\" \"$REMOTE_ENV_N\" \"$REMOTE_ENV\" >&9; } 2>/dev/null\n");
}

bool shell_send(const struct session *s, uint64_t number, bool pass_over)
{
    static const char plainly[] = "case \"$REMOTE_ENV_N $-\" in \"%llu \"*) ;; "
        "*x*) { REMOTE_ENV_N=%llu; " SOURCE(" >&5 2>&6 5>&- 6>&-", "</dev/null") "; " KEEP "; } 5>&1 6>&2 >/dev/null 2>&1;; "
        "*) REMOTE_ENV_N=%llu; " SOURCE("", "</dev/null") "; " KEEP ";; esac\n";
    static const char on_terminal[] = "case \"$REMOTE_ENV_N \" in \"%llu \"*) ;; "
        "*) { REMOTE_ENV_N=%llu; " SOURCE(" >&5 2>&5 5>&-", "<&7 5>&7") "; " KEEP "; } >/dev/null 2>&1;; esac\n";
    static const char nothing[] = "case \"$REMOTE_ENV_N \" in \"%llu \"*) ;; *) REMOTE_ENV_N=%llu REMOTE_ENV_SAID=%llu REMOTE_ENV=130;; esac\n";
    char line[2048];
    unsigned long long n = number;
    if (!s->plain)
        snprintf(line, sizeof line, "%llu %llu %s\n", n, n, pass_over ? "x" : s->on_terminal ? "t" : "-");
    else if (pass_over)
        snprintf(line, sizeof line, nothing, n, n, n);
    else if (s->on_terminal)
        snprintf(line, sizeof line, on_terminal, n, n);
    else
        snprintf(line, sizeof line, plainly, n, n, n);
    return send_line(s, line) && shell_ask(s);
}
