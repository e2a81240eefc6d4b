/*
 * The runner and the command's own process.
 *
 * The runner waits for all that the command starts and reports the main process's end. It stays until its last
 * descendant has ended; once the execution is acknowledged it reads the pipes and throws away what comes, so that a
 * background process neither dies of SIGPIPE nor blocks. The command's process does everything that a sandbox could
 * make slow or fail, as the user it is for, and says through the report where it failed.
 */
#include "link.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
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
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

extern char **environ;

/* ---- the command ---- */

static struct report *report;

static _Noreturn void fail(enum stage stage, int error)
{
    report->error = error;
    report->stage = (int32_t)stage;
    _exit(127);
}

/* Puts the NUL behind each of a list's strings, in place, and their addresses into `out`. */
static void spread(char *at, uint32_t count, char **out)
{
    char *end = NULL;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t length;
        memcpy(&length, at, sizeof length);
        if (end)
            *end = 0; /* the next one's length lay there */
        out[i] = at + sizeof length;
        at = end = out[i] + length;
    }
    if (end)
        *end = 0;
    out[count] = NULL;
}

static size_t name_length(const char *entry)
{
    const char *equals = strchr(entry, '=');
    return equals ? (size_t)(equals - entry) : strlen(entry);
}

static bool same_name(const char *a, const char *b)
{
    size_t length = name_length(a);
    return length == name_length(b) && memcmp(a, b, length) == 0;
}

static const char *value_of(char *const *env, const char *name)
{
    for (; *env; env++)
        if (same_name(*env, name))
            return (*env)[name_length(*env)] ? *env + name_length(*env) + 1 : "";
    return NULL;
}

/* `env` holds the request's entries, with room for the init's own and two more behind them. */
static void complete_env(char **env, uint32_t count, const struct user *user)
{
    static char home[sizeof user->home + 5];
    for (char **own = environ; *own; own++) {
        if (!settings.keep_home && same_name(*own, "HOME"))
            continue;
        if (!value_of(env, *own))
            env[count++] = *own;
        env[count] = NULL;
    }
    if (!value_of(env, "HOME")) {
        snprintf(home, sizeof home, "HOME=%s", user->home);
        env[count++] = home;
        env[count] = NULL;
    }
    if (!value_of(env, "PATH")) {
        static char path[] = "PATH=" DEFAULT_PATH;
        env[count++] = path;
        env[count] = NULL;
    }
}

static int try_exec(const char *program, char **argv, char **env)
{
    execve(program, argv, env);
    return errno;
}

/* As execvpe, by the command's own PATH. Returns why not. */
static int search_exec(const char *name, char **argv, char **env)
{
    if (strchr(name, '/'))
        return try_exec(name, argv, env);
    const char *path = value_of(env, "PATH");
    int error = ENOENT;
    if (!*name)
        return error;
    for (const char *end; path; path = *end ? end + 1 : NULL) {
        char program[PATH_MAX];
        end = strchrnul(path, ':');
        int length = snprintf(program, sizeof program, "%.*s%s%s", (int)(end - path), path, end > path ? "/" : "", name);
        if (length < 0 || (size_t)length >= sizeof program)
            continue;
        int tried = try_exec(program, argv, env);
        if (tried == EACCES)
            error = tried; /* a later one may do; if none does, this is why */
        else if (tried != ENOENT && tried != ENOTDIR)
            return tried;
    }
    return error;
}

static int make_directories(char *path)
{
    for (char *slash = path + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        int failed = mkdir(path, 0777) && errno != EEXIST;
        *slash = '/';
        if (failed)
            return -1;
    }
    return mkdir(path, 0777) && errno != EEXIST ? -1 : 0;
}

static void enter_workdir(struct request *request)
{
    char path[PATH_MAX] = "/";
    if (request->workdir_length >= sizeof path)
        fail(STAGE_WORKDIR, ENAMETOOLONG);
    if (request->workdir_length) {
        memcpy(path, request->workdir, request->workdir_length);
        path[request->workdir_length] = 0;
    }
    if (chdir(path) == 0)
        return;
    if (errno == ENOENT && (request->flags & RUN_MAKE_WORKDIR) && make_directories(path) == 0 && chdir(path) == 0)
        return;
    fail(STAGE_WORKDIR, errno);
}

static void become(const struct user *user)
{
    bool already = user->uid == geteuid() && user->gid == getegid();
    if (setgroups(user->group_count, user->groups) && !(errno == EPERM && already))
        fail(STAGE_USER, errno);
    if (setgid(user->gid) || setuid(user->uid))
        fail(STAGE_USER, errno);
    prctl(PR_SET_DUMPABLE, 0); /* setuid may have reset it; the program's own start does, for itself */
}

static void raise_oom_score(void)
{
    char text[16];
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return; /* a wish, not a condition: without /proc the command runs all the same */
    int length = snprintf(text, sizeof text, "%d", settings.oom_score_adj);
    if (write(fd, text, (size_t)length) != length)
        errno = 0;
    close(fd);
}

static _Noreturn void be_command(struct request *request, pid_t runner, const int write_ends[STREAMS_MAX])
{
    static struct user user;
    static char spec[1024];

    /* Until it has a session of its own it must not outlive its runner: it would pass for one. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != runner)
        _exit(127);
    setsid();
    prctl(PR_SET_PDEATHSIG, 0);
    raise_oom_score();
    struct rlimit nofile = {settings.nofile_soft, settings.nofile_hard};
    setrlimit(RLIMIT_NOFILE, &nofile);

    if (request->user_length >= sizeof spec)
        fail(STAGE_USER, ENAMETOOLONG);
    if (request->user_length)
        memcpy(spec, request->user, request->user_length);
    int error = user_find(spec, &user);
    if (error)
        fail(STAGE_USER, error);
    int out = write_ends[0], err = write_ends[request->flags & RUN_SPLIT ? 1 : 0];
    if ((fchown(out, user.uid, user.gid) || fchown(err, user.uid, user.gid)) && user.uid != geteuid())
        fail(STAGE_PIPE, errno);
    become(&user);
    enter_workdir(request);
    if ((request->flags & RUN_STDIN) && dup2(request->stdin_fd, 0) < 0)
        fail(STAGE_STDIN, errno);
    if (dup2(out, 1) < 0 || dup2(err, 2) < 0)
        fail(STAGE_PIPE, errno);

    size_t own = 0;
    while (environ[own])
        own++;
    size_t pointers = (size_t)request->argc + 1 + request->envc + own + 3;
    char **argv = mmap(NULL, pointers * sizeof *argv, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (argv == MAP_FAILED)
        fail(STAGE_EXEC, errno);
    char **env = argv + request->argc + 1;
    spread(request->argv, request->argc, argv);
    spread(request->env, request->envc, env);
    complete_env(env, request->envc, &user);

    /* A signal that came meanwhile is pending: with the runner's handlers in place it would be swallowed. */
    signal(SIGCHLD, SIG_DFL);
    signal(SIGUSR1, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    error = search_exec(argv[0], argv, env);
    if (error == ENOENT && (request->flags & RUN_SHELL)) {
        static char shell[] = "sh";
        argv[0] = shell;
        error = search_exec(shell, argv, env);
        if (error == ENOENT)
            error = try_exec("/bin/sh", argv, env);
    }
    fail(STAGE_EXEC, error);
}

/* ---- the runner ---- */

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

static void close_all_but(int *kept, size_t count)
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

/* Throws away some of what is there. False: no writer is left. */
static bool discard(int read_end)
{
    static char waste[65536];
    return read(read_end, waste, sizeof waste) != 0;
}

static _Noreturn void be_runner(struct request *request, const struct execution *e, const int write_ends[STREAMS_MAX])
{
    struct pollfd pipes[STREAMS_MAX]; /* poll passes over what is -1 */
    int kept[] = {settings.wake, request->stdin_fd, e->streams[0].read_end, e->streams[1].read_end, write_ends[0], write_ends[1]};
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
        be_command(request, self, write_ends);
    struct rusage usage = {0};
    if (command < 0) {
        report->error = errno;
        report->stage = STAGE_FORK;
        tell(0, &usage, false);
        _exit(0);
    }
    atomic_store(&report->command, command);
    for (unsigned i = 0; i < STREAMS_MAX; i++)
        if (write_ends[i] >= 0)
            close(write_ends[i]);
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

pid_t run_start(struct execution *e, struct report *shared, struct request *request, const int write_ends[STREAMS_MAX])
{
    atomic_store(&shared->done, 0);
    atomic_store(&shared->command, 0);
    shared->stage = 0;
    pid_t pid = fork();
    if (pid == 0) {
        report = shared;
        be_runner(request, e, write_ends);
    }
    return pid;
}
