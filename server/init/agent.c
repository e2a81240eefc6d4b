/* File agents: children of the init, each with a user's identity and a socket to the server. What they do is files.c's. */
#include "link.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define AGENTS_MAX 64

static pid_t agents[AGENTS_MAX];

static int take_identity(const char *name)
{
    static struct user user;
    int error = user_find(name, &user);
    return error ? error : user_become(&user);
}

/* The first packet says whether it is whom it should be: the passwd file is the sandbox's, and looked at here only. */
static _Noreturn void be_agent(const char *name, int socket)
{
    close_all_but(&socket, 1);
    raise_oom_score();
    int32_t error = take_identity(name);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* an identity that changes takes it back */
    if (send(socket, &error, sizeof error, MSG_NOSIGNAL) < 0 || error || getppid() != settings.pid)
        _exit(0);
    files_serve(socket);
}

int agent_start(const char *user, uint32_t length, int *socket)
{
    char name[1024];
    int ends[2];
    unsigned at = 0;
    if (length >= sizeof name)
        return ENAMETOOLONG;
    memcpy(name, user ? user : "", length);
    name[length] = 0;
    while (at < AGENTS_MAX && agents[at])
        at++;
    if (at == AGENTS_MAX)
        return EAGAIN;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
        return errno;
    pid_t pid = fork();
    int error = errno;
    if (pid == 0)
        be_agent(name, ends[1]);
    close(ends[1]);
    if (pid > 0) {
        agents[at] = pid;
        *socket = ends[0];
        return 0;
    }
    close(ends[0]);
    return error;
}

bool agent_gone(pid_t pid)
{
    for (unsigned i = 0; i < AGENTS_MAX; i++) {
        if (agents[i] != pid)
            continue;
        agents[i] = 0;
        return true;
    }
    return false;
}
