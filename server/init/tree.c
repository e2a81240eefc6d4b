/*
 * Killing by descent. One round reads /proc once and serves every hunt under way. A hunt freezes what it finds until a
 * round finds nothing new (so that nothing can outrun it by forking), then kills until the runner, which ends when its
 * last descendant has, is gone. It needs no fork and no free pid; where it has to wait for memory see memory.c.
 *
 * A pid may in theory be used again between its reading and our signal; the kernel hands pids out cyclically, so the
 * whole pid space would have to be used up within one round.
 */
#include "link.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PROCESSES_MAX 65536 /* looked at in one round; what is beyond comes in the next */
#define FREEZE_ROUNDS_MAX 16 /* then kill anyway: somebody in the sandbox may be sending SIGCONT */
#define FREEZE_PAUSE_MS 1
#define KILL_PAUSE_MAX_MS 32
#define VAIN_ROUNDS_MAX 50 /* nothing below the runner and yet it stays: then it goes too */
#define PATIENCE_MS 1000   /* with a session's shell that says nothing though all that its command started is killed */

#define NOBODY (-1)
#define ORPHANS TABLE_SIZE

struct process {
    pid_t pid, parent, session;
    int owner; /* slot of the table, ORPHANS, NOBODY */
    char state;
    uint64_t began; /* in ticks since boot */
};

struct hunt orphan_hunt;
static bool runners_too;

static struct process processes[PROCESSES_MAX]; /* ascending by pid */
static int process_count;

/* ---- reading /proc ---- */

static bool read_stat(int proc, const char *name, struct process *process)
{
    char path[32], text[512];
    snprintf(path, sizeof path, "%.16s/stat", name);
    int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    if (size <= 0)
        return false;
    text[size] = 0;
    const char *rest = strrchr(text, ')'); /* the name before it may hold anything */
    int parent, group, session;
    unsigned long long began;
    const char *format = " %c %d %d %d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu";
    if (!rest || sscanf(rest + 1, format, &process->state, &parent, &group, &session, &began) != 5)
        return false;
    process->began = began;
    process->pid = atoi(name);
    process->parent = parent;
    process->session = session;
    process->owner = NOBODY;
    return true;
}

static void insert(const struct process *process)
{
    int at = process_count++;
    for (; at > 0 && processes[at - 1].pid > process->pid; at--)
        processes[at] = processes[at - 1];
    processes[at] = *process;
}

/* False: the kernel has no memory for it just now. */
static bool read_processes(void)
{
    struct entry { /* struct linux_dirent64 */
        uint64_t inode;
        int64_t offset;
        unsigned short length;
        unsigned char type;
        char name[];
    };
    static union { char bytes[32768]; struct entry align; } buffer;
    process_count = 0;
    int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (proc < 0)
        return errno != ENOMEM;
    long size;
    while ((size = syscall(SYS_getdents64, proc, buffer.bytes, sizeof buffer.bytes)) > 0) {
        for (long at = 0; at < size && process_count < PROCESSES_MAX;) {
            const struct entry *entry = (const struct entry *)(const void *)(buffer.bytes + at);
            struct process process;
            if (entry->name[0] >= '1' && entry->name[0] <= '9' && read_stat(proc, entry->name, &process))
                insert(&process);
            at += entry->length;
        }
    }
    bool read = size == 0 || errno != ENOMEM;
    close(proc);
    return read;
}

static struct process *find(pid_t pid)
{
    int low = 0, high = process_count;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (processes[middle].pid < pid)
            low = middle + 1;
        else
            high = middle;
    }
    return low < process_count && processes[low].pid == pid ? &processes[low] : NULL;
}

/* ---- whose is it ---- */

static bool hunting(const struct hunt *hunt)
{
    return hunt->phase > HUNT_GRACE;
}

/* Of what is right below a session's runner or its shell: what began since its command was sent. The rest follows by descent. */
static void mark_started_by(const struct execution *command)
{
    const struct session *s = command->session;
    pid_t shell = atomic_load(&table_report(s->shell)->command);
    for (int i = 0; i < process_count; i++) {
        struct process *p = &processes[i];
        bool below = p->pid != shell && (p->parent == shell || p->parent == s->shell->runner);
        if (below && (p->began > s->began || (p->began == s->began && p->pid > s->before)))
            p->owner = (int)(command - table);
    }
}

static void mark_owners(void)
{
    for (unsigned i = 0; i < table_top; i++) {
        if (table[i].state == RUNNING && hunting(&table[i].hunt) && session_is_command(&table[i]))
            mark_started_by(&table[i]);
        struct process *runner = table[i].runner && table[i].state == RUNNING && hunting(&table[i].hunt) ? find(table[i].runner) : NULL;
        if (runner)
            runner->owner = (int)i;
    }
    if (hunting(&orphan_hunt)) {
        for (int i = 0; i < process_count; i++) {
            struct process *p = &processes[i];
            if (p->parent == settings.pid && (runners_too || p->session != settings.session))
                p->owner = ORPHANS;
        }
    }
    for (bool changed = true; changed;) { /* mostly one pass: a child's pid is mostly higher than its parent's */
        changed = false;
        for (int i = 0; i < process_count; i++) {
            const struct process *parent = processes[i].owner == NOBODY ? find(processes[i].parent) : NULL;
            if (parent && parent->owner != NOBODY) {
                processes[i].owner = parent->owner;
                changed = true;
            }
        }
    }
}

/* ---- a round ---- */

static struct hunt *hunt_of(int owner)
{
    return owner == ORPHANS ? &orphan_hunt : &table[owner].hunt;
}

/* Its end is our doing, unless it had come before the hunt began. */
static void own_up(struct execution *e)
{
    if (e->ending.cause != CAUSE_NONE)
        e->ending.flags |= ENDING_KILLED_BY_US;
}

static void strike(const struct process *p)
{
    struct hunt *hunt = hunt_of(p->owner);
    if (p->owner != ORPHANS && p->pid == table[p->owner].runner) {
        kill(p->pid, SIGCONT); /* it has to reap; it may have been stopped from inside */
        return;
    }
    bool dead = p->state == 'Z' || p->state == 'X';
    if (hunt->phase == HUNT_KILL) {
        kill(p->pid, SIGKILL); /* the dead too: a zombie's other threads may live */
        if (p->owner != ORPHANS)
            own_up(&table[p->owner]);
        hunt->found += !dead || p->owner == ORPHANS;
        return;
    }
    hunt->found++;
    if (hunt->phase == HUNT_TERM)
        kill(p->pid, SIGTERM);
    else if (!dead && p->state != 'T' && p->state != 't') {
        kill(p->pid, SIGSTOP);
        hunt->fresh++;
    }
}

static void begin_round(struct hunt *hunt)
{
    hunt->fresh = hunt->found = 0;
}

static void end_round(struct hunt *hunt, int64_t now)
{
    hunt->rounds++;
    if (hunt->phase == HUNT_TERM) {
        hunt->phase = HUNT_GRACE;
        hunt->warned = true;
        hunt->next = now + hunt->grace_ms;
        return;
    }
    if (hunt->phase == HUNT_FREEZE) {
        hunt->next = now + FREEZE_PAUSE_MS;
        if (hunt->fresh == 0 || hunt->rounds >= FREEZE_ROUNDS_MAX) {
            hunt->phase = HUNT_KILL;
            hunt->rounds = 0;
            hunt->next = now;
            hunt->patience_ends = now + PATIENCE_MS;
        }
        return;
    }
    hunt->vain = hunt->found ? 0 : hunt->vain + 1;
    int64_t pause = 1ll << (hunt->rounds < 5 ? hunt->rounds : 5);
    hunt->next = now + (pause < KILL_PAUSE_MAX_MS ? pause : KILL_PAUSE_MAX_MS);
}

static void postpone(struct hunt *hunt, int64_t now)
{
    if (hunting(hunt))
        hunt->next = now + FREEZE_PAUSE_MS;
}

void tree_round(int64_t now)
{
    if (!read_processes()) {
        postpone(&orphan_hunt, now);
        for (unsigned i = 0; i < table_top; i++)
            postpone(&table[i].hunt, now);
        return;
    }
    mark_owners();
    begin_round(&orphan_hunt);
    for (unsigned i = 0; i < table_top; i++)
        begin_round(&table[i].hunt);
    for (int i = 0; i < process_count; i++)
        if (processes[i].owner != NOBODY)
            strike(&processes[i]);
    for (unsigned i = 0; i < table_top; i++) {
        struct execution *e = &table[i];
        if (e->state != RUNNING || !hunting(&e->hunt))
            continue;
        end_round(&e->hunt, now);
        if (e->hunt.vain > VAIN_ROUNDS_MAX && e->runner) {
            own_up(e);
            kill(e->runner, SIGKILL);
        }
        if (session_is_command(e) && e->reported && e->hunt.vain)
            table_end_running(e);
    }
    if (!hunting(&orphan_hunt))
        return;
    bool killing = orphan_hunt.phase == HUNT_KILL;
    end_round(&orphan_hunt, now);
    if (killing && orphan_hunt.found == 0) {
        orphan_hunt.phase = HUNT_NONE;
        table_orphans_gone();
    }
}

/* ---- hunts ---- */

void tree_hunt(struct execution *e)
{
    e->hunt.phase = HUNT_FREEZE;
    e->hunt.rounds = e->hunt.vain = 0;
    e->hunt.next = now_ms();
    e->deadline = e->idle_deadline = NEVER;
}

static bool striking(const struct hunt *hunt)
{
    return hunt->phase == HUNT_FREEZE || (hunt->phase == HUNT_KILL && hunt->rounds == 0);
}

bool tree_striking(void)
{
    for (unsigned i = 0; i < table_top; i++)
        if (table[i].state == RUNNING && striking(&table[i].hunt))
            return true;
    return striking(&orphan_hunt);
}

void tree_hunt_orphans(bool all)
{
    runners_too |= all;
    orphan_hunt = (struct hunt){.phase = HUNT_FREEZE, .next = now_ms()};
}
