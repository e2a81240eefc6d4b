/* Bytes to values and back. Nothing here knows what a message does. */
#include "link.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the link's integers are the machine's own");

static char *take(struct cursor *c, size_t size)
{
    if (c->bad || (size_t)(c->end - c->at) < size) {
        c->bad = true;
        return NULL;
    }
    char *p = c->at;
    c->at += size;
    return p;
}

uint32_t take_u32(struct cursor *c)
{
    uint32_t value = 0;
    char *p = take(c, sizeof value);
    if (p)
        memcpy(&value, p, sizeof value);
    return value;
}

uint64_t take_u64(struct cursor *c)
{
    uint64_t value = 0;
    char *p = take(c, sizeof value);
    if (p)
        memcpy(&value, p, sizeof value);
    return value;
}

char *take_string(struct cursor *c, uint32_t *length)
{
    *length = take_u32(c);
    char *p = take(c, *length);
    if (p && memchr(p, 0, *length)) {
        c->bad = true;
        p = NULL;
    }
    if (!p)
        *length = 0;
    return p;
}

struct id take_id(struct cursor *c)
{
    struct id id = {0};
    uint32_t length;
    const char *p = take_string(c, &length);
    if (!p || length == 0 || length > ID_LENGTH_MAX) {
        c->bad = true;
        return id;
    }
    for (uint32_t i = 0; i < length; i++)
        if (p[i] <= ' ' || p[i] >= 127)
            c->bad = true;
    id.length = (uint8_t)length;
    memcpy(id.text, p, length);
    return id;
}

/* Length 0 where the string is empty. */
static struct id take_optional_id(struct cursor *c)
{
    uint32_t length = 0;
    if (c->end - c->at >= (ptrdiff_t)sizeof length)
        memcpy(&length, c->at, sizeof length);
    if (length)
        return take_id(c);
    take_u32(c);
    return (struct id){0};
}

static char *take_list(struct cursor *c, uint32_t *count)
{
    *count = take_u32(c);
    char *first = c->at;
    for (uint32_t i = 0; i < *count && !c->bad; i++) {
        uint32_t length;
        take_string(c, &length);
    }
    return first;
}

bool message_request(struct cursor *c, struct request *request)
{
    request->number = take_u64(c);
    request->id = take_id(c);
    request->flags = take_u32(c);
    request->timeout_ms = take_u64(c);
    request->idle_timeout_ms = take_u64(c);
    request->grace_ms = take_u32(c);
    request->user = take_string(c, &request->user_length);
    request->workdir = take_string(c, &request->workdir_length);
    request->argv = take_list(c, &request->argc);
    request->env = take_list(c, &request->envc);
    if (LINK_VERSION >= 3) {
        request->session = take_optional_id(c);
        request->rows = take_u32(c);
        request->columns = take_u32(c);
        request->stdin_path = take_string(c, &request->stdin_path_length);
    }
    return !c->bad && c->at == c->end;
}

/* The body of a LARGE packet, copied: a file that shrinks under a mapping would kill us. */
char *message_large_body(int memory, uint32_t length)
{
    struct stat status;
    if (length > BODY_LIMIT || fstat(memory, &status) || !S_ISREG(status.st_mode))
        return NULL;
    char *body = mmap(NULL, length + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (body == MAP_FAILED)
        return NULL;
    for (uint32_t done = 0; done < length;) {
        ssize_t n = pread(memory, body + done, length - done, done);
        if (n <= 0) {
            munmap(body, length + 1);
            return NULL;
        }
        done += (uint32_t)n;
    }
    return body;
}

unsigned message_descriptors(struct msghdr *message, int fds[PASSED_MAX])
{
    struct cmsghdr *c = CMSG_FIRSTHDR(message); /* the kernel puts all descriptors of a packet into one */
    if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
        return 0;
    unsigned count = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    memcpy(fds, CMSG_DATA(c), count * sizeof(int));
    return count;
}

char *put_bytes(char *p, const void *bytes, size_t length)
{
    memcpy(p, bytes, length);
    return p + length;
}

char *put_u8(char *p, uint8_t value)
{
    return put_bytes(p, &value, sizeof value);
}

char *put_u32(char *p, uint32_t value)
{
    return put_bytes(p, &value, sizeof value);
}

char *put_u64(char *p, uint64_t value)
{
    return put_bytes(p, &value, sizeof value);
}

char *put_id(char *p, const struct id *id)
{
    p = put_u32(p, id->length);
    return put_bytes(p, id->text, id->length);
}

char *put_ending(char *p, const struct ending *ending)
{
    p = put_u8(p, ending->kind);
    p = put_u8(p, ending->cause);
    p = put_u8(p, ending->flags);
    p = put_u8(p, ending->stage);
    p = put_u32(p, (uint32_t)ending->status);
    p = put_u64(p, ending->started_ns);
    p = put_u64(p, ending->ended_ns);
    p = put_u64(p, ending->cpu_us);
    p = put_u64(p, ending->max_rss_bytes);
    p = put_u64(p, ending->waited_ms);
    p = put_u32(p, ending->oom_kills);
    return put_u32(p, 0);
}

/* The table as it is now. */
char *put_hello(char *p, const unsigned char *incarnation, const unsigned char *secret, uint32_t pipes)
{
    p = put_u32(p, LINK_VERSION);
    p = put_bytes(p, incarnation, SECRET_SIZE);
    p = put_bytes(p, secret, SECRET_SIZE);
    p = put_u64(p, highest);
    p = put_u32(p, pipes);
    char *counted = p;
    uint32_t count = 0;
    p = put_u32(p, count);
    for (unsigned i = 0; i < table_top; i++) {
        const struct execution *e = &table[i];
        if (e->state == FREE)
            continue;
        const struct ending running = {.kind = ENDING_EXITED, .started_ns = e->ending.started_ns};
        count++;
        p = put_id(p, &e->id);
        p = put_u64(p, e->number);
        p = put_u8(p, e->state == RUNNING ? ENTRY_RUNNING : ENTRY_ENDED);
        p = put_ending(p, e->state == RUNNING ? &running : &e->ending);
    }
    put_u32(counted, count);
    return p;
}

void put_header(char header[HEADER_SIZE], uint8_t type, uint8_t flags, uint32_t body_length)
{
    char *p = put_u8(header, type);
    p = put_u8(p, flags);
    p = put_u8(p, 0);
    p = put_u8(p, 0);
    put_u32(p, body_length);
}
