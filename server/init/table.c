/* The table of executions: what was taken, what became of it, until the server has it. */
#include "link.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define INTERRUPT (1ull << (SIGINT - 1))
#define AGAIN_MS 100 /* a program that has just begun may be between fork and exec, where a SIGINT is lost on it */

struct execution table[TABLE_SIZE];
struct report *reports;
unsigned table_top;
uint64_t highest;

static uint16_t vacant[TABLE_SIZE]; /* stack of free slots */
static unsigned vacant_count;
static unsigned running;

bool table_setup(void)
{
    for (unsigned i = 0; i < TABLE_SIZE; i++)
        vacant[i] = (uint16_t)(TABLE_SIZE - 1 - i);
    vacant_count = TABLE_SIZE;
    reports = mmap(NULL, sizeof *reports * TABLE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return reports != MAP_FAILED;
}

bool table_full(void)
{
    return vacant_count == 0;
}

struct execution *table_find(const struct id *id)
{
    for (unsigned i = 0; i < table_top; i++)
        if (table[i].state != FREE && memcmp(&table[i].id, id, sizeof *id) == 0)
            return &table[i];
    return NULL;
}

struct report *table_report(const struct execution *e)
{
    return &reports[e - table];
}

static struct execution *take_slot(uint64_t number, const struct id *id)
{
    unsigned slot = vacant[--vacant_count];
    struct execution *e = &table[slot];
    bool queued = e->queued; /* the ring may still hold the slot for its last tenant */
    if (slot >= table_top)
        table_top = slot + 1;
    *e = (struct execution){
        .state = RUNNING, .queued = queued, .id = *id, .number = number, .streams = {{.read_end = -1}, {.read_end = -1}},
        .deadline = NEVER, .idle_deadline = NEVER, .hunt.next = NEVER};
    e->ending.started_ns = wall_ns();
    return e;
}

/* ---- endings ---- */

static void end(struct execution *e)
{
    clock_settle_wait(e);
    if (!e->ending.ended_ns)
        e->ending.ended_ns = wall_ns();
    e->state = ENDED;
    e->hunt.phase = HUNT_NONE;
    e->deadline = e->idle_deadline = e->hunt.next = NEVER;
    e->signals = 0;
    e->ended_due = true;
    link_say(e);
}

void table_end_running(struct execution *e)
{
    if (!e->session || session_is_command(e))
        running--;
    else
        session_over(e);
    e->await_orphans = false;
    if (e->ending.kind == ENDING_EXITED) {
        if (e->alone)
            e->ending.flags |= ENDING_ALONE;
        e->ending.oom_kills = (uint32_t)(oom_kills() - e->oom_before);
    }
    end(e);
}

/* An ending without anything having run. */
void table_end_unrun(struct execution *e, uint8_t kind, uint8_t stage, int32_t error)
{
    e->ending.kind = kind;
    e->ending.stage = stage;
    e->ending.status = error;
    end(e);
}

/* The OOM killer took its main process. */
static bool starved_of_memory(const struct execution *e)
{
    return e->ending.kind == ENDING_EXITED && WIFSIGNALED(e->ending.status) && WTERMSIG(e->ending.status) == SIGKILL
        && oom_kills() > e->oom_before;
}

/* What the OOM killer has left of it would take the memory again: a fork bomb goes on without its first process. */
static void hunt_remains(struct execution *e)
{
    if (e->alone)
        e->ending.flags |= ENDING_ALONE; /* whoever may come during the hunt */
    tree_hunt(e);
}

void table_absorb(struct execution *e)
{
    struct report *report = table_report(e);
    if (session_is_command(e)) {
        session_hear(e->session);
        return;
    }
    if (e->state != RUNNING || e->reported || !e->runner || !atomic_load_explicit(&report->done, memory_order_acquire))
        return;
    e->reported = true;
    e->signals = 0;
    e->ending.kind = report->stage ? ENDING_FAILED_TO_START : ENDING_EXITED;
    e->ending.stage = (uint8_t)report->stage;
    e->ending.status = report->stage ? report->error : report->status;
    e->ending.ended_ns = report->ended_ns;
    e->ending.cpu_us = report->cpu_us;
    e->ending.max_rss_bytes = report->max_rss_bytes;
    if (report->children_left && e->ending.cause == CAUSE_NONE && e->hunt.phase == HUNT_NONE) {
        if (starved_of_memory(e))
            hunt_remains(e);
        else
            e->ending.flags |= ENDING_OUTPUT_OPEN;
    }
    /* What init or OOM killer end has ended when all of it is dead; what ends by itself may leave others behind. */
    if (e->hunt.phase == HUNT_NONE || !e->runner)
        table_end_running(e);
}

void table_collect(void)
{
    for (unsigned i = 0; i < table_top; i++)
        if (!session_is_command(&table[i]))
            table_absorb(&table[i]);
}

/* ---- what the server asks ---- */

/* A session is company to others by its commands only, and never to these. */
static void mark_company(struct execution *newcomer)
{
    newcomer->alone = running == 0;
    if (newcomer->session && !session_is_command(newcomer))
        return;
    running++;
    for (unsigned i = 0; i < table_top; i++)
        if (&table[i] != newcomer && !(newcomer->session && newcomer->session->shell == &table[i]))
            table[i].alone = false;
}

void table_started(struct execution *e, const struct request *request)
{
    mark_company(e);
    clock_start(e, request);
    e->started_due = true;
    link_say(e);
}

static void start(struct execution *e, struct request *request)
{
    struct ends ends = {{-1, -1}, -1, -1, -1, -1, -1};
    uint8_t stage = STAGE_PIPE;
    int error = stream_make(e, request, &ends);
    if (!error && (request->flags & RUN_SESSION))
        error = session_open(e, request, &ends);
    if (!error) {
        stage = STAGE_FORK;
        e->runner = run_start(e, table_report(e), request, &ends);
        error = e->runner < 0 ? errno : 0;
    }
    ends_close(&ends);
    if (!error) {
        table_started(e, request);
        return;
    }
    e->runner = 0;
    stream_close(e);
    if (e->session)
        session_over(e);
    table_end_unrun(e, ENDING_FAILED_TO_START, stage, error);
}

bool table_run(struct request *request)
{
    if (request->number <= highest) {
        link_stale(&request->id, request->number);
        return true;
    }
    if (table_find(&request->id))
        return false;
    highest = request->number;
    struct execution *e = take_slot(request->number, &request->id);
    e->oom_before = oom_kills();
    if (request->argc == 0) {
        table_end_unrun(e, ENDING_FAILED_TO_START, STAGE_REQUEST, EINVAL);
        return true;
    }
    if (request->session.length) {
        session_run(e, request);
        return true;
    }
    if ((request->flags & RUN_STDIN) && request->stdin_fd < 0) {
        table_end_unrun(e, ENDING_FAILED_TO_START, STAGE_STDIN, EBADF);
        return true;
    }
    start(e, request);
    return true;
}

bool table_skip(uint64_t number, const struct id *id)
{
    if (number <= highest) {
        link_stale(id, number);
        return true;
    }
    if (table_find(id))
        return false;
    highest = number;
    table_end_unrun(take_slot(number, id), ENDING_SKIPPED, STAGE_NONE, 0);
    return true;
}

void table_ack(const struct id *id)
{
    struct execution *e = table_find(id);
    if (!e || e->state != ENDED)
        return;
    stream_close(e);
    session_forget(e);
    atomic_store_explicit(&table_report(e)->released, e->number, memory_order_release);
    if (e->runner)
        kill(e->runner, SIGUSR1); /* it looks at `released` */
    e->state = FREE;
    e->started_due = e->ended_due = false;
    vacant[vacant_count++] = (uint16_t)(e - table);
}

void table_signal(const struct id *id, uint32_t signal)
{
    struct execution *e = table_find(id);
    if (!e || e->state != RUNNING || signal < 1 || signal > 64)
        return;
    e->signals |= 1ull << (signal - 1);
    table_send_signals(e);
}

/* To the command's process group; what comes before the command is there is kept until it is. A session's command is in its
   shell's. */
void table_send_signals(struct execution *e)
{
    table_absorb(e);
    if (e->session && (e->signals & INTERRUPT) && session_idle(e->session))
        e->signals &= ~INTERRUPT;
    const struct session *s = e->session;
    pid_t command = s && !s->heard ? 0 : atomic_load(&table_report(s ? s->shell : e)->command);
    if (e->state != RUNNING || e->reported || (!e->runner && !s))
        e->signals = 0;
    uint64_t due = e->signals;
    if (s && command && (due & INTERRUPT) && !session_interruptible(e->session))
        due &= ~INTERRUPT;
    if (!due || !command)
        return;
    if ((due & INTERRUPT) && e->hunt.interrupt_again) {
        e->hunt.interrupt_again = false;
        e->hunt.interrupt_at = now_ms() + AGAIN_MS;
    }
    for (int n = 1; n <= 64; n++) {
        if (!(due >> (n - 1) & 1))
            continue;
        if (kill(-command, n) && errno == ESRCH)
            kill(command, n); /* it has not made its group yet; the signal waits until its program starts */
    }
    e->signals &= ~due;
    if (s && s->command == e)
        shell_ask(e->session);
}

/* ---- children ---- */

static struct execution *find_runner(pid_t pid)
{
    for (unsigned i = 0; i < table_top; i++)
        if (table[i].state != FREE && table[i].runner == pid)
            return &table[i];
    return NULL;
}

static void runner_gone(struct execution *e, int status)
{
    table_absorb(e);
    e->runner = 0;
    if (e->state != RUNNING)
        return;
    if (!e->reported) {
        e->ending.kind = ENDING_EXITED;
        e->ending.status = WIFSIGNALED(status) ? WTERMSIG(status) : SIGKILL;
        if (!(e->ending.flags & ENDING_KILLED_BY_US))
            e->ending.flags |= ENDING_RUNNER_KILLED;
    }
    e->hunt.phase = HUNT_NONE;
    e->hunt.next = e->deadline = e->idle_deadline = NEVER;
    if (status == 0)
        table_end_running(e);
    else
        e->await_orphans = true;
}

void table_reap(void)
{
    for (;;) {
        siginfo_t child = {0};
        if (waitid(P_ALL, 0, &child, WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL) || !child.si_pid)
            return;
        pid_t pid = child.si_pid;
        bool ours = getsid(pid) == settings.session; /* nobody can join a session: an orphan has another */
        int status;
        if (waitpid(pid, &status, WNOHANG | WUNTRACED | __WALL) != pid)
            continue;
        if (WIFSTOPPED(status)) {
            if (ours)
                kill(pid, SIGCONT);
            continue;
        }
        if (agent_gone(pid))
            continue;
        struct execution *e = find_runner(pid);
        if (ours && status != 0)
            tree_hunt_orphans(false);
        if (e)
            runner_gone(e, status);
    }
}

void table_orphans_gone(void)
{
    for (unsigned i = 0; i < table_top; i++)
        if (table[i].state == RUNNING && table[i].await_orphans)
            table_end_running(&table[i]);
}
