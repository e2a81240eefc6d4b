/*
 * The runner. It waits for all that the command starts and reports the main process's end. It stays until its last
 * descendant has ended; once the execution is acknowledged it reads the pipes and throws away what comes, so that a
 * background process neither dies of SIGPIPE nor blocks.
 */
#include "link.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

static struct report *report;

static void wake_up(int signal)
{
    (void)signal;
}

static int compare_ints(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static void close_span(unsigned first, unsigned last)
{
    if (first > last || syscall(SYS_close_range, first, last, 0) == 0)
        return;
    /* Kernels before 5.9, and filters that do not know the call. The init's own descriptors are dense. */
    unsigned top = settings.nofile_hard < 65536 ? (unsigned)settings.nofile_hard : 65536;
    for (unsigned fd = first; fd <= last && fd < top; fd++)
        close((int)fd);
}

void close_all_but(int *kept, size_t count)
{
    unsigned first = 3;
    qsort(kept, count, sizeof *kept, compare_ints);
    for (size_t i = 0; i < count; i++) {
        if (kept[i] < 3)
            continue;
        close_span(first, (unsigned)kept[i] - 1);
        first = (unsigned)kept[i] + 1;
    }
    close_span(first, ~0u);
}

static void tell(int status, const struct rusage *usage, bool children_left)
{
    report->status = status;
    report->children_left = children_left;
    report->ended_ns = wall_ns();
    report->cpu_us = (uint64_t)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * 1000000u
        + (uint64_t)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec);
    report->max_rss_bytes = (uint64_t)usage->ru_maxrss * 1024;
    atomic_store_explicit(&report->done, 1, memory_order_release);
    uint64_t one = 1;
    if (write(settings.wake, &one, sizeof one) < 0)
        _exit(1); /* nobody to report to */
}

/* Throws away some of what is there. False: no writer is left, which a terminal tells by an error. */
static bool discard(int read_end)
{
    static char waste[65536];
    ssize_t size = read(read_end, waste, sizeof waste);
    return size > 0 || (size < 0 && errno != EIO);
}

static _Noreturn void be_runner(struct request *request, const struct execution *e, const struct ends *ends)
{
    struct pollfd pipes[STREAMS_MAX]; /* poll passes over what is -1 */
    int kept[4 + ENDS] = {settings.wake, request->stdin_fd, e->streams[0].read_end, e->streams[1].read_end};
    memcpy(kept + 4, ends, sizeof *ends);
    uint64_t number = e->number;
    for (unsigned i = 0; i < STREAMS_MAX; i++)
        pipes[i] = (struct pollfd){.fd = e->streams[i].read_end, .events = POLLIN};
    close_all_but(kept, sizeof kept / sizeof *kept);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    struct sigaction waking = {.sa_handler = wake_up};
    sigaction(SIGCHLD, &waking, NULL);
    sigaction(SIGUSR1, &waking, NULL);
    sigset_t waiting;
    sigfillset(&waiting);
    sigdelset(&waiting, SIGCHLD);
    sigdelset(&waiting, SIGUSR1);

    pid_t self = getpid(), command = fork();
    if (command == 0)
        command_start(request, self, ends, report);
    struct rusage usage = {0};
    if (command < 0) {
        report->error = errno;
        report->stage = STAGE_FORK;
        tell(0, &usage, false);
        _exit(0);
    }
    atomic_store(&report->command, command);
    ends_close(ends);
    if (request->stdin_fd >= 0)
        close(request->stdin_fd);

    int status = 0;
    for (bool ended = false, told = false;;) {
        pid_t pid;
        int child_status;
        struct rusage child_usage;
        while ((pid = wait4(-1, &child_status, WNOHANG | __WALL, &child_usage)) > 0) {
            if (pid == command && !ended) {
                ended = true;
                status = child_status;
                usage = child_usage;
            }
        }
        bool alone = pid < 0 && errno == ECHILD;
        if (ended && !told)
            tell(status, &usage, !alone);
        told = ended;
        if (alone)
            _exit(0);
        bool released = atomic_load_explicit(&report->released, memory_order_acquire) >= number;
        if (ppoll(pipes, released ? STREAMS_MAX : 0, NULL, &waiting) <= 0)
            continue;
        for (unsigned i = 0; i < STREAMS_MAX; i++) {
            if (!pipes[i].revents || discard(pipes[i].fd))
                continue;
            close(pipes[i].fd);
            pipes[i].fd = -1;
        }
    }
}

pid_t run_start(const struct execution *e, struct report *shared, struct request *request, const struct ends *ends)
{
    atomic_store(&shared->done, 0);
    atomic_store(&shared->command, 0);
    shared->stage = 0;
    pid_t pid = fork();
    if (pid == 0) {
        report = shared;
        be_runner(request, e, ends);
    }
    return pid;
}
