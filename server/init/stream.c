/* Where commands write: pipes, their read ends, and what can be told of both without reading. */
#include "link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define SPARE_FDS 16        /* kept free for /proc, the link and what it passes */
#define TERMINAL_FULL 4095  /* bytes that a terminal holds for its reader; what is beyond, we cannot see */

unsigned stream_read_ends(const struct execution *e, int fds[STREAMS_MAX])
{
    unsigned count = 0;
    for (unsigned i = 0; i < STREAMS_MAX; i++)
        if (e->streams[i].read_end >= 0)
            fds[count++] = e->streams[i].read_end;
    return count;
}

void stream_close(struct execution *e)
{
    for (unsigned i = 0; i < STREAMS_MAX; i++) {
        if (e->streams[i].read_end >= 0)
            close(e->streams[i].read_end);
        e->streams[i].read_end = -1;
    }
}

void ends_close(const struct ends *ends)
{
    int fds[ENDS];
    memcpy(fds, ends, sizeof fds);
    for (unsigned i = 0; i < ENDS; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

bool stream_make_pipe(int *read_end, int *write_end)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC))
        return false;
    if ((uint64_t)fds[1] + SPARE_FDS >= settings.nofile_hard) {
        close(fds[0]);
        close(fds[1]);
        errno = EMFILE;
        return false;
    }
    *read_end = fds[0];
    *write_end = fds[1];
    return true;
}

int stream_make(struct execution *e, const struct request *request, struct ends *ends)
{
    if ((request->flags & RUN_TTY) && !(request->flags & RUN_SESSION)) {
        e->terminal = true;
        return terminal_make(request, &e->streams[0].read_end, &ends->terminal);
    }
    for (unsigned i = 0; i < (request->flags & RUN_SPLIT ? STREAMS_MAX : 1); i++) {
        if (!stream_make_pipe(&e->streams[i].read_end, &ends->out[i]))
            return errno;
        fcntl(e->streams[i].read_end, F_SETFL, O_NONBLOCK); /* whoever reads it: a second reader must never hang */
    }
    return 0;
}

int stream_copy(struct execution *e, const int read_ends[STREAMS_MAX])
{
    for (unsigned i = 0; i < STREAMS_MAX; i++) {
        if (read_ends[i] < 0)
            continue;
        e->streams[i].read_end = fcntl(read_ends[i], F_DUPFD_CLOEXEC, 3);
        if (e->streams[i].read_end < 0) {
            int error = errno;
            stream_close(e);
            return error;
        }
    }
    return 0;
}

static bool pipe_full(int read_end)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", read_end);
    struct pollfd end = {.fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC), .events = POLLOUT};
    if (end.fd < 0)
        return false;
    bool full = poll(&end, 1, 0) == 0;
    close(end.fd);
    return full;
}

bool stream_full(const struct execution *e)
{
    for (unsigned i = 0; i < STREAMS_MAX; i++) {
        int fd = e->streams[i].read_end, unread = 0;
        if (fd < 0)
            continue;
        if (!e->terminal ? pipe_full(fd) : ioctl(fd, FIONREAD, &unread) == 0 && unread >= TERMINAL_FULL)
            return true;
    }
    return false;
}

/* New bytes are activity that no server told of. */
bool stream_grew(struct execution *e)
{
    bool grew = false;
    for (unsigned i = 0; i < STREAMS_MAX; i++) {
        struct stream *stream = &e->streams[i];
        int unread = 0;
        if (stream->read_end < 0 || ioctl(stream->read_end, FIONREAD, &unread))
            continue;
        grew |= unread > stream->unread;
        stream->unread = unread;
    }
    return grew;
}
