/* The agent's loop: a request in, a reply out; and the handles that stay in between. */
#include "files.h"

#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HANG_S 20
#define REPLY_HEADER 20

struct asked asked;
struct reply reply;
static struct handle handles[HANDLES_MAX];

/* ---- replying ---- */

bool fits(size_t more)
{
    return (size_t)(reply.packet + sizeof reply.packet - reply.at) >= more;
}

void put_entry(const struct stat *s, const char *name, const char *target, uint32_t flags)
{
    char *p = put_u32(put_u32(put_u32(put_u32(reply.at, s->st_mode), s->st_uid), s->st_gid), flags);
    p = put_u64(put_u64(p, (uint64_t)s->st_size), (uint64_t)s->st_mtim.tv_sec);
    p = put_u32(put_u32(p, (uint32_t)s->st_mtim.tv_nsec), 0);
    p = put_u64(put_u64(p, s->st_dev), s->st_ino);
    size_t name_length = strlen(name), target_length = strlen(target);
    p = put_bytes(put_u32(p, (uint32_t)name_length), name, name_length);
    reply.at = put_bytes(put_u32(p, (uint32_t)target_length), target, target_length);
    reply.count++;
}

static bool answer(int socket, uint32_t number, int error)
{
    put_u32(put_u32(put_u32(put_u32(put_u32(reply.packet, number), (uint32_t)error), reply.handle), reply.flags), reply.count);
    struct iovec part = {reply.packet, (size_t)(reply.at - reply.packet)};
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (reply.fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control.space;
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &reply.fd, sizeof(int));
    }
    ssize_t sent;
    do
        sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    while (sent < 0 && (errno == EINTR || errno == ETOOMANYREFS || errno == ENOBUFS));
    if (reply.fd >= 0 && !reply.keep_fd)
        close(reply.fd);
    return sent >= 0;
}

/* ---- handles ---- */

struct handle *handle_of(uint32_t number)
{
    return number >= 1 && number <= HANDLES_MAX && handles[number - 1].directory >= 0 ? &handles[number - 1] : NULL;
}

/* Takes the descriptor over, whatever becomes of it. */
int new_handle(int directory, struct handle **taken)
{
    for (uint32_t i = 0; i < HANDLES_MAX; i++) {
        if (handles[i].directory >= 0)
            continue;
        handles[i] = (struct handle){.directory = directory, .file = -1};
        reply.handle = i + 1;
        *taken = &handles[i];
        return 0;
    }
    close(directory);
    return EMFILE;
}

void close_handle(struct handle *h)
{
    if (h->file >= 0) {
        close(h->file);
        if (!h->unnamed)
            unlinkat(h->directory, h->temporary, 0); /* committed: it has another name by now */
    }
    close(h->directory);
    h->directory = h->file = -1;
}

static int do_close(void)
{
    struct handle *h = handle_of(asked.handle);
    if (!h)
        return EBADF;
    close_handle(h);
    return 0;
}

/* ---- the loop ---- */

static bool copy_string(struct cursor *c, char *out, size_t size)
{
    uint32_t length;
    const char *text = take_string(c, &length);
    if (c->bad || length >= size)
        return false;
    memcpy(out, text, length);
    out[length] = 0;
    return true;
}

static bool parse(char *packet, size_t size, uint32_t *number)
{
    struct cursor c = {.at = packet, .end = packet + size};
    *number = take_u32(&c);
    uint32_t what = take_u32(&c);
    asked.op = (uint8_t)what;
    asked.flags = (uint8_t)(what >> 8);
    asked.handle = take_u32(&c);
    asked.mode = take_u32(&c);
    asked.mtime.tv_sec = (time_t)take_u64(&c);
    asked.mtime.tv_nsec = take_u32(&c);
    bool whole = what >> 16 == 0 && asked.mtime.tv_nsec < 1000000000 && copy_string(&c, asked.path, sizeof asked.path)
        && copy_string(&c, asked.other, sizeof asked.other) && !c.bad;
    asked.content = c.at;
    asked.content_size = whole ? (size_t)(c.end - c.at) : 0;
    return whole && (asked.op == WRITE || !asked.content_size);
}

static int carry_out(void)
{
    static int (*const operations[])(void) = {
        [STAT] = do_stat, [OPEN] = do_open, [DIRECTORY] = do_directory, [NEXT] = do_next, [CREATE] = do_create,
        [COMMIT] = do_commit, [MAKE_DIRECTORY] = do_make_directory, [REMOVE] = do_remove, [EMPTY] = do_empty,
        [SYMLINK] = do_symlink, [LINK] = do_link, [SET] = do_set, [CLOSE] = do_close, [WRITE] = do_write,
        [REMOVE_TREE] = do_remove_tree,
    };
    if (asked.op >= sizeof operations / sizeof *operations || !operations[asked.op])
        return ENOSYS;
    return operations[asked.op]();
}

static _Noreturn void end(int status)
{
    for (unsigned i = 0; i < HANDLES_MAX; i++)
        if (handles[i].directory >= 0)
            close_handle(&handles[i]);
    _exit(status);
}

static void hung(int signal)
{
    (void)signal;
    end(1);
}

_Noreturn void files_serve(int socket)
{
    static char packet[PACKET_LIMIT + 1]; /* one more: strings get their NULs in place */
    sigset_t alarms;
    sigemptyset(&alarms);
    sigaddset(&alarms, SIGALRM);
    signal(SIGALRM, hung);
    sigprocmask(SIG_UNBLOCK, &alarms, NULL);
    umask(0); /* modes are exact */
    for (unsigned i = 0; i < HANDLES_MAX; i++)
        handles[i].directory = handles[i].file = -1;
    for (;;) {
        uint32_t number;
        ssize_t size = recv(socket, packet, PACKET_LIMIT, 0);
        if (size < 0 && errno == EINTR)
            continue;
        if (size <= 0)
            end(size ? 1 : 0);
        if (!parse(packet, (size_t)size, &number))
            end(2);
        reply.at = reply.packet + REPLY_HEADER;
        reply.handle = reply.flags = reply.count = 0;
        reply.fd = -1;
        reply.keep_fd = false;
        alarm(HANG_S);
        int error = carry_out();
        alarm(0);
        if (error) { /* nothing but the error */
            reply.at = reply.packet + REPLY_HEADER;
            reply.handle = reply.flags = reply.count = 0;
        }
        if (!answer(socket, number, error))
            end(1);
    }
}
