/* The socket: connecting, reading packets, saying what the table has to say. One packet, one message. */
#include "link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define READ_BURST 64       /* packets, before the rest of the loop has its turn */
#define STALE_MAX 64        /* answers that wait; then reading stops */
#define READY_MAX 16        /* as many file agents that wait to be told of */
#define SEND_RETRY_MS 5     /* after ETOOMANYREFS and the like, which poll does not tell the end of */
#define BLOCKED_MS 1000     /* a RUN that finds no room for so long: a new link, so that ACKs and KILLs get through */

static struct sockaddr_un address;
static unsigned char incarnation[SECRET_SIZE], secret[SECRET_SIZE];
static int fd = -1;
static bool welcomed;
static int64_t connect_at, send_at, blocked_since;
static bool wait_writable;

static char inbox[PACKET_LIMIT + 1]; /* one more: strings get their NULs in place */
static char hello[HELLO_SIZE_MAX];

static uint16_t piped[TABLE_SIZE]; /* slots whose read ends the hello announced */
static unsigned piped_count, piped_said;
static uint16_t say[TABLE_SIZE]; /* ring of slots with something due; a slot is in it once (`queued`) */
static unsigned say_head, say_count;
static struct { struct id id; uint64_t number; } stale[STALE_MAX];
static unsigned stale_head, stale_count;
static struct { uint32_t request; int32_t error; int socket; } ready[READY_MAX];
static unsigned ready_head, ready_count;

static void link_down(void)
{
    if (fd >= 0)
        close(fd);
    fd = -1;
    if (welcomed)
        clock_server_lost();
    welcomed = false;
    wait_writable = false;
    blocked_since = 0;
    send_at = 0;
    for (; ready_count; ready_count--) {
        if (!ready[ready_head].error)
            close(ready[ready_head].socket);
        ready_head = (ready_head + 1) % READY_MAX;
    }
    piped_count = piped_said = say_head = say_count = stale_head = stale_count = 0;
    for (unsigned i = 0; i < table_top; i++)
        table[i].started_due = table[i].ended_due = table[i].queued = false;
}

bool link_setup(const char *path)
{
    size_t length = strlen(path);
    if (length >= sizeof address.sun_path)
        return false;
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, path, length + 1);
    return getrandom(incarnation, sizeof incarnation, 0) == sizeof incarnation
        && getrandom(secret, sizeof secret, 0) == sizeof secret;
}

int link_fd(void)
{
    return fd;
}

bool link_welcomed(void)
{
    return welcomed;
}

/* ---- sending ---- */

/* True: sent. False: not now, or the link is down. */
static bool send_packet(uint8_t type, uint8_t flags, const char *body, uint32_t length, const int *fds, unsigned count)
{
    char header[HEADER_SIZE];
    put_header(header, type, flags, length);
    struct iovec parts[2] = {{header, sizeof header}, {(void *)(uintptr_t)body, body ? length : 0}};
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int) * PIPES_PER_PACKET)];
    } control = {0};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    if (count) {
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
    }
    if (sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
        return true;
    if (errno == EAGAIN)
        wait_writable = true;
    else if (errno == ETOOMANYREFS || errno == ENOBUFS || errno == ENOMEM || errno == EINTR)
        send_at = now_ms() + SEND_RETRY_MS;
    else
        link_down();
    return false;
}

static bool send_hello(void)
{
    uint32_t read_ends = 0;
    for (unsigned i = 0; i < table_top; i++) {
        int fds[STREAMS_MAX];
        unsigned count = table[i].state == FREE ? 0 : stream_read_ends(&table[i], fds);
        if (count)
            piped[piped_count++] = (uint16_t)i;
        read_ends += count;
    }
    uint32_t length = (uint32_t)(put_hello(hello, incarnation, secret, read_ends) - hello);
    if (HELLO_SIZE_MAX <= PACKET_LIMIT - HEADER_SIZE || length <= PACKET_LIMIT - HEADER_SIZE)
        return send_packet(MESSAGE_HELLO, 0, hello, length, NULL, 0);
    int memory = memfd_create("hello", MFD_CLOEXEC);
    bool sent = memory >= 0 && write(memory, hello, length) == (ssize_t)length
        && send_packet(MESSAGE_HELLO, FLAG_LARGE, NULL, length, &memory, 1);
    if (memory >= 0)
        close(memory);
    return sent;
}

/* An execution's read ends travel in one packet, one behind the other. */
static bool send_pipes(void)
{
    static char body[4 + PIPES_PER_PACKET * (4 + ID_LENGTH_MAX)];
    while (piped_said < piped_count) {
        int fds[PIPES_PER_PACKET];
        unsigned count = 0, next = piped_said;
        char *p = put_u32(body, 0);
        for (; next < piped_count && count + STREAMS_MAX <= PIPES_PER_PACKET; next++) {
            const struct execution *e = &table[piped[next]];
            unsigned own = stream_read_ends(e, fds + count);
            count += own;
            while (own--)
                p = put_id(p, &e->id);
        }
        put_u32(body, count);
        if (!send_packet(MESSAGE_PIPES, 0, body, (uint32_t)(p - body), fds, count))
            return false;
        piped_said = next;
    }
    return true;
}

static bool send_due(struct execution *e)
{
    char body[4 + ID_LENGTH_MAX + 8 + ENDING_SIZE];
    char *after_id = put_u64(put_id(body, &e->id), e->number);
    if (e->started_due) {
        int fds[STREAMS_MAX];
        unsigned count = stream_read_ends(e, fds);
        char *p = put_u64(after_id, e->ending.started_ns);
        if (!send_packet(MESSAGE_STARTED, 0, body, (uint32_t)(p - body), fds, count))
            return false;
        e->started_due = false;
    }
    if (e->ended_due) {
        char *p = put_ending(after_id, &e->ending);
        if (!send_packet(MESSAGE_ENDED, 0, body, (uint32_t)(p - body), NULL, 0))
            return false;
        e->ended_due = false;
    }
    return true;
}

static void say_what_is_due(void)
{
    if (fd < 0 || now_ms() < send_at)
        return;
    wait_writable = false;
    send_at = 0;
    if (!send_pipes() || !welcomed) /* before the WELCOME a hello and its pipes, nothing else */
        return;
    for (; stale_count; stale_count--) {
        char body[4 + ID_LENGTH_MAX + 8];
        char *p = put_u64(put_id(body, &stale[stale_head].id), stale[stale_head].number);
        if (!send_packet(MESSAGE_STALE, 0, body, (uint32_t)(p - body), NULL, 0))
            return;
        stale_head = (stale_head + 1) % STALE_MAX;
    }
    for (; ready_count; ready_count--) {
        char body[8];
        put_u32(put_u32(body, ready[ready_head].request), (uint32_t)ready[ready_head].error);
        bool agent = ready[ready_head].error == 0;
        if (!send_packet(MESSAGE_FILES_READY, 0, body, sizeof body, &ready[ready_head].socket, agent))
            return;
        if (agent)
            close(ready[ready_head].socket);
        ready_head = (ready_head + 1) % READY_MAX;
    }
    for (; say_count; say_count--) {
        struct execution *e = &table[say[say_head]];
        if (!send_due(e))
            return;
        e->queued = false;
        say_head = (say_head + 1) % TABLE_SIZE;
    }
}

void link_say(struct execution *e)
{
    if (fd < 0) { /* the next hello tells */
        e->started_due = e->ended_due = false;
        return;
    }
    if (e->queued)
        return;
    e->queued = true;
    say[(say_head + say_count++) % TABLE_SIZE] = (uint16_t)(e - table);
}

void link_stale(const struct id *id, uint64_t number)
{
    unsigned at = (stale_head + stale_count++) % STALE_MAX;
    stale[at].id = *id;
    stale[at].number = number;
}

static void start_agent(uint32_t request, const char *user, uint32_t length)
{
    unsigned at = (ready_head + ready_count++) % READY_MAX;
    ready[at].request = request;
    ready[at].error = agent_start(user, length, &ready[at].socket);
}

/* ---- reading ---- */

/* False: against the protocol. */
static bool handle(uint8_t type, char *body, uint32_t length, int stdin_fd)
{
    struct cursor c = {.at = body, .end = body + length};
    if (type == MESSAGE_RUN) {
        struct request request = {.stdin_fd = stdin_fd};
        return message_request(&c, &request) && table_run(&request);
    }
    if (type == MESSAGE_WELCOME) {
        uint64_t orphan_ms = take_u64(&c);
        if (c.bad || c.at != c.end)
            return false;
        welcomed = true;
        clock_welcome(orphan_ms);
        return true;
    }
    if (type == MESSAGE_FILES) {
        uint32_t request = take_u32(&c), length;
        const char *user = take_string(&c, &length);
        if (c.bad || c.at != c.end)
            return false;
        start_agent(request, user, length);
        return true;
    }
    uint64_t number = type == MESSAGE_SKIP ? take_u64(&c) : 0;
    struct id id = take_id(&c);
    uint32_t signal = type == MESSAGE_SIGNAL ? take_u32(&c) : 0;
    if (c.bad || c.at != c.end)
        return false;
    switch (type) {
    case MESSAGE_SKIP: return table_skip(number, &id);
    case MESSAGE_ACK: table_ack(&id); return true;
    case MESSAGE_SIGNAL: table_signal(&id, signal); return true;
    case MESSAGE_ACTIVITY: clock_activity(&id); return true;
    case MESSAGE_KILL: {
        struct execution *e = table_find(&id);
        if (e)
            clock_condemn(e, CAUSE_CANCEL);
        return true;
    }
    default: return false;
    }
}

static bool handle_packet(char *packet, size_t size, const int *passed, unsigned count)
{
    if (size < HEADER_SIZE || packet[2] || packet[3])
        return false;
    uint8_t type = (uint8_t)packet[0], flags = (uint8_t)packet[1];
    uint32_t length;
    memcpy(&length, packet + 4, sizeof length);
    if (!(flags & FLAG_LARGE)) {
        int last = count ? passed[count - 1] : -1;
        return flags == 0 && length == size - HEADER_SIZE && handle(type, packet + HEADER_SIZE, length, last);
    }
    if (flags != FLAG_LARGE || type != MESSAGE_RUN || size != HEADER_SIZE || !count)
        return false;
    char *body = message_large_body(passed[0], length);
    bool good = body && handle(type, body, length, count > 1 ? passed[count - 1] : -1);
    if (body)
        munmap(body, length + 1);
    return good;
}

/* A RUN or SKIP at the head of the line finds no slot. Other messages are let through: an ACK makes room. */
static bool blocked(void)
{
    char type;
    if (!table_full() || recv(fd, &type, 1, MSG_PEEK | MSG_DONTWAIT) != 1
        || (type != MESSAGE_RUN && type != MESSAGE_SKIP)) {
        blocked_since = 0;
        return false;
    }
    if (!blocked_since)
        blocked_since = now_ms();
    return true;
}

static bool may_read(void)
{
    return piped_said == piped_count && stale_count < STALE_MAX && ready_count < READY_MAX;
}

void link_read(short revents)
{
    if (fd < 0 || !revents)
        return;
    if ((revents & (POLLHUP | POLLERR)) && (!may_read() || blocked_since)) {
        link_down();
        return;
    }
    for (unsigned burst = 0; burst < READ_BURST && may_read() && !blocked(); burst++) {
        struct iovec part = {inbox, PACKET_LIMIT};
        union {
            struct cmsghdr align;
            char space[CMSG_SPACE(sizeof(int) * PASSED_MAX)];
        } control;
        struct msghdr message = {
            .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        ssize_t size = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (size < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (size < 0) {
            link_down();
            return;
        }
        int passed[PASSED_MAX];
        unsigned count = message_descriptors(&message, passed); /* an empty packet, too, can bring descriptors */
        bool good = size > 0 && !(message.msg_flags & MSG_TRUNC) && handle_packet(inbox, (size_t)size, passed, count);
        while (count)
            close(passed[--count]);
        if (!good) {
            link_down();
            return;
        }
    }
}

short link_events(void)
{
    bool reading = may_read() && !blocked_since;
    return (short)((reading ? POLLIN : 0) | (wait_writable ? POLLOUT : 0));
}

/* ---- connecting ---- */

static int64_t retry_interval_ms(void)
{
    int64_t away = clock_away_ms();
    return away < 2000 ? 4 : away < 60000 ? 50 : 250;
}

static void connect_anew(void)
{
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) || !send_hello())
        link_down();
}

int64_t link_tick(void)
{
    int64_t now = now_ms();
    if (fd >= 0 && blocked_since && blocked()) {
        if (now - blocked_since < BLOCKED_MS)
            return now + 20; /* a slot may come free meanwhile */
        link_down();
    }
    if (fd < 0 && now >= connect_at) {
        connect_anew();
        connect_at = now + retry_interval_ms();
    }
    say_what_is_due();
    if (fd < 0)
        return connect_at;
    return send_at ? send_at : NEVER;
}
