/*
 * usage: init [--keep-home] [--socket PATH]
 *
 * --keep-home  the HOME in the init's own environment is the commands' (default: each user's, from passwd)
 * --socket     where the server listens (default: server.sock beside the init)
 */
#include "link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define OOM_SCORE_ABOVE 500 /* of a command, above the init's: the OOM killer is to take the command */

struct settings settings;

#ifdef INIT_SANITIZED
/* Leaks cannot be looked for in a process that is not dumpable, and there is nothing to leak. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}
#endif

int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

uint64_t wall_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static _Noreturn void refuse(const char *what)
{
    dprintf(2, "remote-env-init: %s\n", what);
    exit(2);
}

static int own_oom_score(void)
{
    char text[16] = "";
    int fd = open("/proc/self/oom_score_adj", O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    return size > 0 ? atoi(text) : 0;
}

static void set_up_descriptors(void)
{
    int null = open("/dev/null", O_RDWR);
    while (null >= 0 && null < 3)
        null = dup(null);
    if (null >= 0) {
        dup2(null, 0);
        close(null);
    }
    if (syscall(436 /* close_range */, 3, ~0u, 0)) {
        for (int fd = 3; fd < 1024; fd++) /* what an engine may have left open is low */
            close(fd);
    }
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        refuse("cannot read the limit of open files");
    settings.nofile_soft = limit.rlim_cur;
    settings.nofile_hard = limit.rlim_max;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static void block_signals(void)
{
    for (int n = 1; n <= 64; n++)
        signal(n, SIG_DFL); /* an ignored one would stay ignored in every command */
    sigset_t set;
    sigfillset(&set);
    sigprocmask(SIG_SETMASK, &set, NULL);
}

static int open_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGQUIT);
    return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

static void set_up(int argc, char **argv)
{
    static char beside[4096];
    const char *path = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--keep-home") == 0)
            settings.keep_home = true;
        else if (strcmp(argv[i], "--socket") == 0 && i + 1 < argc)
            path = argv[++i];
        else
            refuse("usage: init [--keep-home] [--socket PATH]");
    }
    if (!path) {
        const char *slash = strrchr(argv[0], '/');
        int directory = slash ? (int)(slash + 1 - argv[0]) : 0;
        snprintf(beside, sizeof beside, "%.*sserver.sock", directory, argv[0]);
        path = beside;
    }
    prctl(PR_SET_DUMPABLE, 0);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    setsid(); /* fails where the engine has done it */
    settings.pid = getpid();
    settings.session = getsid(0);
    int score = own_oom_score() + OOM_SCORE_ABOVE;
    settings.oom_score_adj = score > 1000 ? 1000 : score;
    umask(022);
    set_up_descriptors();
    settings.wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (settings.wake < 0 || !memory_setup() || !table_setup() || !link_setup(path))
        refuse("cannot start: no descriptors, memory or randomness, or the socket's path is over 107 bytes");
    if (chdir("/"))
        refuse("there is no / to be in");
}

static void take_signals(int signals)
{
    struct signalfd_siginfo info;
    bool children = false;
    while (read(signals, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo == SIGCHLD)
            children = true;
        else if (settings.pid != 1 || (info.ssi_code == SI_USER && info.ssi_pid == 0))
            clock_shutdown(); /* from outside the sandbox: there the sender has no pid that we could see */
    }
    if (children)
        table_reap();
}

int main(int argc, char **argv)
{
    block_signals(); /* first: an early SIGTERM must wait, not be lost */
    set_up(argc, argv);
    int signals = open_signals();
    if (signals < 0)
        refuse("cannot start: no signalfd");
    for (;;) {
        int64_t next = clock_tick(), link_next = link_tick();
        if (link_next < next)
            next = link_next;
        int64_t pause = next == NEVER ? -1 : next - now_ms();
        if (next != NEVER && pause < 0)
            pause = 0;
        if (!tree_striking())
            memory_turn_ends();
        struct pollfd fds[3 + SESSIONS_MAX] = {
            {.fd = signals, .events = POLLIN},
            {.fd = settings.wake, .events = POLLIN},
            {.fd = clock_shutting_down() ? -1 : link_fd(), .events = link_events()},
        };
        unsigned sessions = session_watch(fds + 3);
        int ready = poll(fds, 3 + sessions, pause > INT32_MAX ? INT32_MAX : (int)pause);
        memory_turn_begins();
        if (ready < 0)
            continue;
        session_watched(fds + 3, sessions);
        if (fds[1].revents) {
            uint64_t count;
            if (read(settings.wake, &count, sizeof count) == sizeof count)
                table_collect();
        }
        if (fds[0].revents)
            take_signals(signals);
        link_read(fds[2].revents);
    }
}
