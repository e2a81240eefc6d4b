/*
 * Sessions: shells that are kept, and the commands that they run one after another.
 *
 * A shell gets three descriptors besides its streams (shell.c says which and how it is made to use them): `go`, by which it
 * is told the number of a command; `text`, a memory file with the command; `status`, by which it says "NUMBER CODE" when it
 * has run it. It says number 0 once, when it is there, with 255 unless it is bash.
 *
 * A number is run once, however often it is sent: a shell that is interrupted while it reads loses what it has read, says
 * its last number again, and is sent the new one again.
 */
#include "link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PLAIN 255 /* an interrupt may make 130 of the 0 */
#define INTERRUPT_MS 5 /* after which a shell that lost a number to an interrupt is interrupted again */
#define BUSY_TICKS 3   /* of CPU time, after which an interrupt waits for a busy shell no longer */
#define BUSY_BYTES 16384 /* of its command, for each of which it is given one more: it has to read and parse them */
#define NOISE_MAX 4096 /* lines that a shell may say from one command to the next; one is expected */

static struct session sessions[SESSIONS_MAX];

bool session_is_command(const struct execution *e)
{
    return e->session && e->session->shell != e;
}

/* ---- opening ---- */

static void close_end(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void close_session(struct session *s)
{
    close_end(&s->go);
    close_end(&s->text);
    close_end(&s->status);
    close_end(&s->master);
    close_end(&s->terminal);
    close_end(&s->stat);
    s->shell = NULL;
    s->command = NULL;
}

static int make_ends(struct session *s, const struct request *request, struct ends *ends)
{
    if (!stream_make_pipe(&ends->go, &s->go) || !stream_make_pipe(&s->status, &ends->status))
        return errno;
    fcntl(s->go, F_SETFL, O_NONBLOCK);
    fcntl(s->status, F_SETFL, O_NONBLOCK);
    s->text = memfd_create("command", MFD_CLOEXEC);
    ends->text = s->text < 0 ? -1 : fcntl(s->text, F_DUPFD_CLOEXEC, 3); /* both have one offset: the shell reads on, we go back */
    ends->go_on = fcntl(s->go, F_DUPFD_CLOEXEC, 3);
    if (ends->text < 0 || ends->go_on < 0)
        return errno;
    if (!(request->flags & RUN_TTY))
        return 0;
    int error = terminal_make(request, &s->master, &s->terminal);
    ends->terminal = error ? -1 : fcntl(s->terminal, F_DUPFD_CLOEXEC, 3);
    return error ? error : ends->terminal < 0 ? errno : 0;
}

int session_open(struct execution *shell, const struct request *request, struct ends *ends)
{
    struct session *s = sessions;
    while (s < sessions + SESSIONS_MAX && s->shell)
        s++;
    if (s == sessions + SESSIONS_MAX)
        return EMFILE;
    *s = (struct session){.go = -1, .text = -1, .status = -1, .master = -1, .terminal = -1, .stat = -1,
        .echo = !(request->flags & RUN_ECHO_OFF)};
    int error = make_ends(s, request, ends);
    if (error) {
        close_session(s);
        return error;
    }
    s->shell = shell;
    shell->session = s;
    return 0;
}

/* ---- commands ---- */

static struct session *find_session(const struct id *id)
{
    for (struct session *s = sessions; s < sessions + SESSIONS_MAX; s++)
        if (s->shell && memcmp(&s->shell->id, id, sizeof *id) == 0)
            return s;
    return NULL;
}

static bool write_text(struct session *s, const struct request *request)
{
    uint32_t length;
    off_t first = sizeof SHELL_FIRST - 1;
    memcpy(&length, request->argv, sizeof length);
    if (ftruncate(s->text, 0) || pwrite(s->text, SHELL_FIRST, (size_t)first, 0) != first || lseek(s->text, first, SEEK_SET) != first)
        return false;
    for (uint32_t done = 0; done < length;) {
        ssize_t size = pwrite(s->text, request->argv + sizeof length + done, length - done, first + done);
        if (size <= 0)
            return false;
        done += (uint32_t)size;
    }
    return true;
}

/* What begins from now on is told from what was there: by its time, and within one tick by its pid. */
static void mark_beginning(struct session *s)
{
    struct timespec t;
    char text[128];
    clock_gettime(CLOCK_BOOTTIME, &t);
    uint64_t hz = (uint64_t)sysconf(_SC_CLK_TCK);
    s->began = (uint64_t)t.tv_sec * hz + (uint64_t)t.tv_nsec / (1000000000u / hz);
    s->before = 0;
    int fd = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    text[size > 0 ? size : 0] = 0;
    const char *last = strrchr(text, ' ');
    if (last)
        s->before = atoi(last);
}

/* As /proc has it: its state; its CPU time and that of the children it has waited for, in ticks. */
static bool look(struct session *s, char *state, uint64_t *ticks)
{
    char text[512];
    unsigned long long times[4];
    if (s->stat < 0) {
        snprintf(text, sizeof text, "/proc/%d/stat", atomic_load(&table_report(s->shell)->command));
        s->stat = open(text, O_RDONLY | O_CLOEXEC);
    }
    ssize_t size = s->stat < 0 ? -1 : pread(s->stat, text, sizeof text - 1, 0);
    text[size > 0 ? size : 0] = 0;
    const char *rest = strrchr(text, ')'); /* the name before it may hold anything */
    const char *format = " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %llu %llu";
    if (!rest || sscanf(rest + 1, format, state, times, times + 1, times + 2, times + 3) != 5)
        return false;
    *ticks = times[0] + times[1] + times[2] + times[3];
    return true;
}

/* Where the last count ended, the next begins: what a shell that waits for its next command uses is nothing to speak of. */
static void begin_count(struct session *s)
{
    char state;
    s->counted = s->counted || look(s, &state, &s->cpu);
}

static void end_count(struct session *s, struct ending *ending)
{
    char state;
    uint64_t us = 1000000u / (uint64_t)sysconf(_SC_CLK_TCK), ticks;
    if (!s->counted)
        return;
    if (s->shell->ending.kind == ENDING_EXITED) /* it is dead, and its runner's word more exact than ours */
        ticks = s->shell->ending.cpu_us / us;
    else if (!look(s, &state, &ticks))
        return;
    ending->cpu_us = ticks > s->cpu ? (ticks - s->cpu) * us : 0;
    s->cpu = ticks;
    ending->flags |= ENDING_CPU_COUNTED;
}

/* A shell that does not read, or says what it must not: it goes, with all that is below it. */
static void condemn_shell(struct session *s)
{
    s->shell->ending.flags |= ENDING_KILLED_BY_US;
    if (s->shell->hunt.phase <= HUNT_GRACE)
        tree_hunt(s->shell);
}

/* Where it is to end already, it is not to begin; but the shell may be about to read what it was sent before. */
static void send_number(struct session *s)
{
    struct execution *e = s->command;
    bool ends = e->ending.cause != CAUSE_NONE;
    if (ends)
        e->hunt.interrupt_at = now_ms() + INTERRUPT_MS;
    begin_count(s); /* not before: the shell itself may have been about to start */
    if (!shell_send(s, e->number, ends))
        condemn_shell(s);
}

static int refusal(const struct session *s, const struct request *request)
{
    if (!s)
        return table_find(&request->session) ? ESRCH : ENOENT;
    if (s->shell->reported || s->shell->await_orphans || s->shell->ending.cause != CAUSE_NONE)
        return ESRCH;
    if ((request->flags & RUN_TTY) && s->master < 0)
        return ENOTTY;
    return s->command ? EBUSY : 0;
}

void session_run(struct execution *e, const struct request *request)
{
    struct session *s = find_session(&request->session);
    int error = refusal(s, request);
    if (error || request->argc != 1) {
        table_end_unrun(e, ENDING_FAILED_TO_START, error ? STAGE_SESSION : STAGE_REQUEST, error ? error : EINVAL);
        return;
    }
    const int master[STREAMS_MAX] = {s->master, -1};
    const int own[STREAMS_MAX] = {s->shell->streams[0].read_end, s->shell->streams[1].read_end};
    e->terminal = s->on_terminal = request->flags & RUN_TTY;
    error = stream_copy(e, e->terminal ? master : own);
    if (!error && !write_text(s, request)) {
        error = errno;
        stream_close(e);
    }
    if (error) {
        table_end_unrun(e, ENDING_FAILED_TO_START, STAGE_PIPE, error);
        return;
    }
    if (e->terminal) {
        struct winsize size = {.ws_row = (unsigned short)request->rows, .ws_col = (unsigned short)request->columns};
        terminal_renew(s->terminal, s->echo);
        if (size.ws_row && size.ws_col)
            ioctl(s->terminal, TIOCSWINSZ, &size);
    }
    e->session = s;
    s->command = e;
    s->noise = 0;
    memcpy(&s->size, request->argv, sizeof s->size);
    s->busy_since = 0;
    mark_beginning(s);
    table_started(e, request);
    e->hunt.interrupt_at = NEVER;
    if (s->heard)
        send_number(s);
}

/*
 * An interrupt does harm to a shell that is between two commands, or about to wait for a program that it has just forked: bash
 * may end, call itself for ever, or keep a part of what it was reading and read it as the next command's beginning. A shell
 * that sleeps is at neither place while a command of its own runs; one that has computed for long is within that command.
 */
bool session_interruptible(struct session *s)
{
    char state;
    uint64_t ticks;
    bool awake = look(s, &state, &ticks) && (state == 'R' || state == 'D');
    if (!awake) {
        s->busy_since = 0;
        return true;
    }
    if (!s->busy_since)
        s->busy_since = ticks + 1;
    if (ticks + 1 - s->busy_since < BUSY_TICKS + s->size / BUSY_BYTES)
        return false;
    s->busy_since = 0;
    return true;
}

/* ---- what the shell says ---- */

static void finish(struct execution *e, uint8_t kind, int32_t status)
{
    e->reported = true;
    e->signals = 0;
    e->ending.kind = kind;
    e->ending.status = status;
    e->ending.ended_ns = wall_ns();
    end_count(e->session, &e->ending);
    if (e->hunt.phase < HUNT_FREEZE) /* else what is stopped must not be left so: it ends when all of it is dead */
        table_end_running(e);
}

static bool waits(const struct session *s)
{
    return s->command && s->command->state == RUNNING && !s->command->reported;
}

/* False: it makes no sense. */
static bool take_line(struct session *s)
{
    char *rest, *end;
    uint64_t number = strtoull(s->line, &rest, 10);
    unsigned long code = *rest == ' ' ? strtoul(rest + 1, &end, 10) : 256;
    if (s->line[0] < '0' || s->line[0] > '9' || code > 255 || rest[1] < '0' || rest[1] > '9' || *end)
        return false;
    if (number == 0 && !s->heard) {
        s->heard = true;
        s->plain = code == PLAIN;
        if (waits(s))
            send_number(s);
    } else if (waits(s) && number == s->command->number) {
        finish(s->command, ENDING_EXITED, (int32_t)code << 8);
    } else if (waits(s) && number < s->command->number) {
        send_number(s);
    }
    return true;
}

/* An interrupt would only make it print an empty line, which the next command's output would begin with. */
bool session_idle(const struct session *s)
{
    return s->heard && !waits(s);
}

void session_hear(struct session *s)
{
    char bytes[1024];
    ssize_t size = s->status < 0 ? -1 : read(s->status, bytes, sizeof bytes);
    if (size == 0)
        close_end(&s->status); /* its end will be told otherwise */
    for (ssize_t i = 0; i < size && s->shell; i++) {
        if (bytes[i] != '\n' && s->length + 1 < sizeof s->line) {
            s->line[s->length++] = bytes[i];
            continue;
        }
        s->line[s->length] = 0;
        s->length = 0;
        if (bytes[i] != '\n' || ++s->noise > NOISE_MAX || !take_line(s)) {
            close_end(&s->status);
            condemn_shell(s);
            return;
        }
    }
}

static struct session *watched[SESSIONS_MAX];

unsigned session_watch(struct pollfd *fds)
{
    unsigned count = 0;
    for (struct session *s = sessions; s < sessions + SESSIONS_MAX; s++) {
        if (!s->shell || s->status < 0)
            continue;
        watched[count] = s;
        fds[count++] = (struct pollfd){.fd = s->status, .events = POLLIN};
    }
    return count;
}

void session_watched(const struct pollfd *fds, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (fds[i].revents)
            session_hear(watched[i]);
}

/* ---- ends ---- */

void session_over(struct execution *shell)
{
    struct session *s = shell->session;
    if (s->status >= 0 && waits(s))
        session_hear(s); /* the last word counts */
    struct execution *e = s->command;
    if (e && e->state == RUNNING) {
        bool began = shell->ending.kind == ENDING_EXITED;
        if (e->ending.cause == CAUSE_NONE)
            e->ending.cause = shell->ending.cause;
        e->ending.flags |= ENDING_SESSION_OVER | (shell->ending.flags & (ENDING_KILLED_BY_US | ENDING_RUNNER_KILLED));
        e->hunt.phase = HUNT_NONE;
        if (!began)
            e->ending.stage = STAGE_SESSION;
        if (e->reported)
            table_end_running(e);
        else
            finish(e, began ? ENDING_EXITED : ENDING_FAILED_TO_START, began ? shell->ending.status : ESRCH);
    }
    if (e)
        e->session = NULL;
    close_session(s);
    shell->session = NULL;
}

void session_give_up(struct execution *e)
{
    e->hunt.patience_ends = NEVER;
    condemn_shell(e->session);
}

void session_forget(const struct execution *e)
{
    if (e->session && e->session->command == e)
        e->session->command = NULL;
}
