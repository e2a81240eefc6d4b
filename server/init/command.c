/*
 * The command's own process, from its fork to its program's start. It does everything that a sandbox could make slow or fail,
 * as the user it is for, and says through the report where it failed.
 */
#include "link.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define SCRIPT_FD 9

extern char **environ;

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

static const struct ends *session_ends; /* of a session's shell, else NULL */

static int try_exec(const char *program, char **argv, char **env)
{
    char *arguments[SHELL_ARGUMENTS];
    if (!session_ends || access(program, X_OK)) {
        execve(program, argv, env);
        return errno;
    }
    bool bash = shell_is_bash(program);
    int error = shell_arm(session_ends, bash);
    if (error)
        fail(STAGE_PIPE, error);
    shell_arguments(argv, bash, arguments);
    execve(program, arguments, env);
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

void raise_oom_score(void)
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

/* ---- standard streams ---- */

static void open_stdin(const struct request *request)
{
    char path[PATH_MAX];
    if (request->stdin_path_length >= sizeof path)
        fail(STAGE_STDIN, ENAMETOOLONG);
    memcpy(path, request->stdin_path, request->stdin_path_length);
    path[request->stdin_path_length] = 0;
    int fd = open(path, O_RDONLY | O_NOCTTY);
    if (fd < 0 || dup2(fd, 0) < 0 || ((request->flags & RUN_UNLINK_STDIN) && unlink(path)))
        fail(STAGE_STDIN, errno);
    close(fd);
}

static void own_streams(const struct ends *ends, uid_t uid, gid_t gid)
{
    for (unsigned i = 0; i < STREAMS_MAX; i++)
        if (ends->out[i] >= 0 && fchown(ends->out[i], uid, gid) && uid != geteuid())
            fail(STAGE_PIPE, errno);
    int error = ends->terminal >= 0 ? terminal_enter(ends->terminal, uid) : 0;
    if (error)
        fail(STAGE_PIPE, error);
}

static void set_streams(const struct request *request, const struct ends *ends)
{
    bool on_terminal = ends->out[0] < 0;
    int out = on_terminal ? ends->terminal : ends->out[0], err = ends->out[1] < 0 ? out : ends->out[1];
    if (request->stdin_path_length)
        open_stdin(request);
    else if ((request->flags & RUN_STDIN) && dup2(request->stdin_fd, 0) < 0)
        fail(STAGE_STDIN, errno);
    if ((on_terminal && dup2(out, 0) < 0) || dup2(out, 1) < 0 || dup2(err, 2) < 0)
        fail(STAGE_PIPE, errno);
}

/* A shell is given the last argument, a command too long for one, as a file. The descriptor is closed on the command's own
   first line, so that its lines are counted as they are. */
static void hand_over_script(char **argv, uint32_t argc)
{
    static const char first[] = "exec 9<&-; ";
    static char source[] = ". /proc/self/fd/9";
    const char *command = argc ? argv[argc - 1] : "";
    size_t length = strlen(command);
    int fd = memfd_create("command", MFD_CLOEXEC);
    if (fd < 0 || write(fd, first, sizeof first - 1) != sizeof first - 1)
        fail(STAGE_EXEC, errno);
    for (size_t done = 0; done < length;) {
        ssize_t size = write(fd, command + done, length - done);
        if (size <= 0)
            fail(STAGE_EXEC, errno);
        done += (size_t)size;
    }
    if (lseek(fd, 0, SEEK_SET) || (fd == SCRIPT_FD ? fcntl(fd, F_SETFD, 0) : dup2(fd, SCRIPT_FD)) < 0)
        fail(STAGE_EXEC, errno);
    argv[argc - 1] = source;
}

/* ---- the start ---- */

_Noreturn void command_start(struct request *request, pid_t runner, const struct ends *ends, struct report *shared)
{
    static struct user user;
    static char spec[1024];

    report = shared;
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
    own_streams(ends, user.uid, user.gid);
    error = user_become(&user);
    if (error)
        fail(STAGE_USER, error);
    enter_workdir(request);
    if (request->flags & RUN_SESSION)
        session_ends = ends;
    else
        set_streams(request, ends);

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
    for (char **entry = env; session_ends && *entry; entry++)
        if (same_name(*entry, "PROMPT_COMMAND"))
            **entry = '_'; /* it would run before the driver does */
    if (request->flags & RUN_SCRIPT)
        hand_over_script(argv, request->argc);

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
