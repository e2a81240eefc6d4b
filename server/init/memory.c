/*
 * Where the sandbox has no memory left. Whoever asks the kernel for some on its behalf then stands in line, behind a fork
 * bomb's thousand processes for minutes. The init asks with a fork, with a file that it opens in /proc, with a packet that
 * it sends, with any page that a fork has left to be copied on writing. So a thread of it, the guard, does nothing but see
 * whether it gets on. If it does not, while the kernel kills for want of memory, everybody else in the sandbox is stopped
 * until it has done what it had to do: the line gets short, and what the next kill sets free stays free.
 *
 * The guard never asks for memory itself. Its stack, and what it and the init tell each other, are left out of forks; the
 * program is locked into memory; to wait, to read a counter and to stop all others by one kill() take none. For the C
 * library it does not exist: it has the init's errno, so what it calls must not fail.
 */
#include "init.h"

#include <fcntl.h>
#include <link.h> /* the C library's */
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define LOOK_MS 50 /* between two looks of the guard, while the init has something to do */
#define STACK_SIZE (64 << 10)

enum pace { IDLE, BUSY, STILL, PACES }; /* of the init: it waits; it works; it works and everybody else is stopped */

struct watch {
    char stack[STACK_SIZE];
    _Atomic uint64_t turn; /* its number, times PACES, plus a pace */
    _Atomic bool awake;    /* the guard is looking */
    int wake;              /* eventfd */
};

static int oom_file = -1;
static struct watch *watch; /* NULL: there is no guard */

/* In musl and in glibc; musl's clone() makes no threads. */
extern int __clone(int (*function)(void *), void *stack, int flags, void *argument, ...);

/* ---- the sandbox's count of processes killed for want of memory ---- */

static void open_count(void)
{
    oom_file = open("/sys/fs/cgroup/memory.events", O_RDONLY | O_CLOEXEC);
    if (oom_file < 0)
        oom_file = open("/sys/fs/cgroup/memory/memory.oom_control", O_RDONLY | O_CLOEXEC);
    oom_kills(); /* what the kernel needs for it stays with the open file from now on */
}

uint64_t oom_kills(void)
{
    char text[512];
    ssize_t size = oom_file < 0 ? 0 : pread(oom_file, text, sizeof text - 1, 0);
    if (size <= 0)
        return 0;
    text[size] = 0;
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, "oom_kill ", 9) == 0)
            return strtoull(line + 9, NULL, 10);
    }
    return 0;
}

/* ---- the guard ---- */

/* More than once where need be: a fork that is under way can let a child slip through. */
static void stop_others(uint64_t turn)
{
    uint64_t still = turn - turn % PACES + STILL;
    if (!atomic_compare_exchange_strong(&watch->turn, &turn, still))
        return;
    kill(-1, SIGSTOP);
    if (atomic_load(&watch->turn) != still) /* it ended meanwhile: its SIGCONT may have come before our SIGSTOP */
        kill(-1, SIGCONT);
}

static void sleep_until_needed(void)
{
    uint64_t count;
    atomic_store(&watch->awake, false);
    if (atomic_load(&watch->turn) % PACES != IDLE && !atomic_exchange(&watch->awake, true))
        return; /* a turn began just now, and nobody else will wake us */
    while (read(watch->wake, &count, sizeof count) != sizeof count) {
    }
}

static void look(void)
{
    const struct timespec pause = {.tv_nsec = LOOK_MS * 1000000};
    uint64_t turn = atomic_load(&watch->turn);
    if (turn % PACES == IDLE) {
        sleep_until_needed();
        return;
    }
    uint64_t kills = oom_kills();
    nanosleep(&pause, NULL);
    if (oom_kills() > kills)
        stop_others(turn); /* it is the same turn still, or nothing happens */
}

static int guard(void *unused)
{
    for (;;)
        look();
    return unused != NULL;
}

static int lock_program(struct dl_phdr_info *program, size_t size, void *unused)
{
    (void)size, (void)unused;
    for (unsigned i = 0; i < program->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &program->dlpi_phdr[i];
        if (part->p_type == PT_LOAD && !(part->p_flags & PF_W))
            mlock((const char *)program->dlpi_addr + part->p_vaddr, part->p_memsz); /* a wish: the limit may be too low */
    }
    return 1; /* the first is the program itself */
}

bool memory_setup(void)
{
    open_count();
    if (settings.pid != 1 || oom_file < 0) /* only as PID 1 are all others the sandbox's */
        return true;
    dl_iterate_phdr(lock_program, NULL);
    watch = mmap(NULL, sizeof *watch, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (watch == MAP_FAILED || madvise(watch, sizeof *watch, MADV_DONTFORK))
        return false;
    memset(watch, 0, sizeof *watch);
    watch->wake = eventfd(0, EFD_CLOEXEC);
    int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    return watch->wake >= 0 && __clone(guard, watch->stack + STACK_SIZE, flags, NULL) > 0;
}

/* ---- the init's turns ---- */

void memory_turn_begins(void)
{
    uint64_t turn = watch ? atomic_load(&watch->turn) : STILL, one = 1;
    if (turn % PACES != IDLE)
        return;
    atomic_store(&watch->turn, turn + PACES + BUSY);
    if (!atomic_exchange(&watch->awake, true) && write(watch->wake, &one, sizeof one) < 0)
        return; /* its count is full: it wakes */
}

void memory_turn_ends(void)
{
    if (!watch)
        return;
    uint64_t turn = atomic_load(&watch->turn);
    turn = atomic_exchange(&watch->turn, turn - turn % PACES);
    if (turn % PACES == STILL)
        kill(-1, SIGCONT); /* who had been stopped before goes on as well */
}
