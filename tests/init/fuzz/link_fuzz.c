/*
 * Feeds bytes to what the init reads from others: packets of the link, and the image's passwd and group files.
 *
 * The input is a list of acts: op u8 | length u16 | bytes. The parts under test are compiled in as they are; only what would
 * start, kill or wait for a process is replaced. After each act the rules of the table are checked, and abort() when broken:
 * the highest number never falls, an id is in the table once, every slot is free or taken, the hello fits its room.
 *
 * Built with -fsanitize=fuzzer it is a libFuzzer target; with -DREPLAY it has a main() that plays the files it is given.
 */
#define TABLE_SIZE 8
#include "../../../server/init/link.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int shell_says[TABLE_SIZE], shell_hears[TABLE_SIZE]; /* of the session in this place; 0: none */
static const uint8_t *passwd_file;
static size_t passwd_size;

static int fuzz_kill(pid_t pid, int signal)
{
    (void)pid, (void)signal;
    return 0;
}

static int fuzz_open(const char *path, int flags)
{
    (void)path, (void)flags;
    int memory = memfd_create("file", MFD_CLOEXEC);
    if (memory >= 0 && write(memory, passwd_file, passwd_size) >= 0)
        lseek(memory, 0, SEEK_SET);
    return memory;
}

static int fuzz_fstat(int fd, struct stat *status);

#define kill fuzz_kill
#include "../../../server/init/message.c"
#include "../../../server/init/table.c"
#undef kill
#include "../../../server/init/stream.c"
#include "../../../server/init/session.c"
#include "../../../server/init/shell.c"
#include "../../../server/init/link.c"
#define open(path, flags) fuzz_open(path, flags)
#define fstat fuzz_fstat
#include "../../../server/init/user.c"
#undef open
#undef fstat

static int fuzz_fstat(int fd, struct stat *status)
{
    return fstat(fd, status);
}

/* ---- what is replaced ---- */

struct settings settings = {.pid = 1, .nofile_soft = 1024, .nofile_hard = 65536};
struct hunt orphan_hunt;
static int64_t clock_now = 1;
static pid_t next_pid = 1000;

int64_t now_ms(void) { return clock_now += 7; }
uint64_t wall_ns(void) { return (uint64_t)now_ms() * 1000000u; }
void clock_start(struct execution *e, const struct request *r) { e->idle_ms = (int64_t)(r->idle_timeout_ms & INT32_MAX); }
void clock_condemn(struct execution *e, uint8_t cause) { e->ending.cause = cause; }
void clock_activity(const struct id *id) { table_find(id); }
void clock_welcome(uint64_t orphan_ms) { (void)orphan_ms; }
void clock_server_lost(void) {}
int64_t clock_away_ms(void) { return 0; }
void clock_settle_wait(struct execution *e) { e->full_since = 0; }
void tree_hunt_orphans(bool runners_too) { (void)runners_too; }
void tree_hunt(struct execution *e) { e->hunt.phase = HUNT_FREEZE; }
uint64_t oom_kills(void) { return 0; }
void terminal_renew(int terminal, bool echo) { (void)terminal, (void)echo; }
bool agent_gone(pid_t pid) { return pid == 1; }

int terminal_make(const struct request *request, int *master, int *terminal)
{
    return request->rows % 7 == 6 ? ENOSPC : stream_make_pipe(master, terminal) ? 0 : errno;
}

int agent_start(const char *user, uint32_t length, int *socket)
{
    if (length && memchr(user, 0, length))
        abort();
    *socket = dup(0);
    return *socket < 0 ? errno : length % 7 == 6 ? (close(*socket), EAGAIN) : 0;
}

/* As a shell that has died. */
static void hang_up(ptrdiff_t place)
{
    if (shell_says[place])
        close(shell_says[place]);
    if (shell_hears[place])
        close(shell_hears[place]);
    shell_says[place] = shell_hears[place] = 0;
}

/* As command.c walks a request: every string is looked at to its last byte, and gets its NUL in place. */
static void walk(char *at, uint32_t count)
{
    char *end = NULL;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t length;
        memcpy(&length, at, sizeof length);
        if (end)
            *end = 0;
        at += sizeof length;
        if (memchr(at, 0, length))
            abort();
        at = end = at + length;
    }
    if (end)
        *end = 0;
}

pid_t run_start(const struct execution *e, struct report *report, struct request *request, const struct ends *ends)
{
    bool both = ends->out[0] >= 0 && request->flags & RUN_SPLIT, session = request->flags & RUN_SESSION;
    if ((ends->out[0] < 0 && ends->terminal < 0) || (ends->out[1] >= 0) != both || (e->streams[1].read_end >= 0) != both)
        abort();
    if ((e->session != NULL) != session || (ends->go >= 0) != session || (session && e->session->shell != e))
        abort();
    if (session) { /* what the fuzzer has its shell say, see say_act */
        ptrdiff_t place = e->session - sessions;
        hang_up(place);
        shell_says[place] = dup(ends->status);
        shell_hears[place] = dup(ends->go);
    }
    if (memchr(request->user ? request->user : "", 0, request->user_length))
        abort();
    walk(request->argv, request->argc);
    walk(request->env, request->envc);
    memset(report, 0, sizeof *report);
    return request->grace_ms % 7 == 6 ? -1 : next_pid++;
}

/* ---- acts ---- */

static int server_end = -1;

static void connect_link(void)
{
    int ends[2];
    link_down();
    if (server_end >= 0)
        close(server_end);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends))
        abort();
    fd = ends[0];
    server_end = ends[1];
    if (!send_hello())
        link_down();
}

/* Whatever the init said goes, with every descriptor passed along. */
static void drain(void)
{
    static char packet[PACKET_LIMIT];
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int) * PASSED_MAX)];
    } control;
    for (;;) {
        struct iovec part = {packet, sizeof packet};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        if (recvmsg(server_end, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) <= 0)
            return;
        int passed[PASSED_MAX];
        for (unsigned count = message_descriptors(&message, passed); count;)
            close(passed[--count]);
    }
}

static void packet_act(const uint8_t *bytes, size_t size, bool with_fds)
{
    /* On the heap, exactly as long as the packet and one byte more, as `inbox` is: the sanitizer sees the first byte beyond. */
    char *copy = malloc(size + 1);
    int passed[2] = {-1, -1};
    unsigned count = 0;
    if (with_fds && size > HEADER_SIZE) { /* the body in a memfd, a second descriptor as stdin */
        passed[0] = memfd_create("body", MFD_CLOEXEC);
        if (passed[0] < 0 || write(passed[0], bytes + HEADER_SIZE, size - HEADER_SIZE) < 0)
            abort();
        passed[1] = dup(passed[0]);
        count = 2;
        size = HEADER_SIZE;
    }
    memcpy(copy, bytes, size);
    if (size >= HEADER_SIZE && !count && bytes[1] != 0xff) { /* a right length is guessed too seldom; 0xff keeps the wrong one */
        uint32_t length = (uint32_t)(size - HEADER_SIZE);
        memcpy(copy + 4, &length, sizeof length);
        copy[1] = copy[2] = copy[3] = 0;
    }
    if (!blocked() && may_read() && table_full() == false && !handle_packet(copy, size, passed, count))
        connect_link();
    while (count)
        close(passed[--count]);
    free(copy);
}

/* The same through the socket: reading, peeking, descriptors and all. */
static void socket_act(const uint8_t *bytes, size_t size)
{
    int passed = size % 3 ? -1 : dup(server_end);
    struct iovec part = {(void *)(uintptr_t)bytes, size};
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (passed >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &passed, sizeof passed);
    }
    sendmsg(server_end, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (passed >= 0)
        close(passed);
    link_read(POLLIN);
    if (fd < 0)
        connect_link();
    link_tick();
}

static void finish_act(uint8_t which)
{
    struct execution *e = &table[which % TABLE_SIZE];
    if (e->state != RUNNING || !e->runner)
        return;
    struct report *report = &reports[e - table];
    report->stage = which & 0x40 ? STAGE_EXEC : 0;
    report->children_left = which & 0x20;
    atomic_store(&report->done, 1);
    table_collect();
    if (e->state == RUNNING)
        runner_gone(e, which & 0x10 ? SIGKILL : 0);
    table_orphans_gone();
}

/* A session's shell says anything at all. */
static void say_act(const uint8_t *bytes, size_t size)
{
    unsigned which = size ? bytes[0] % TABLE_SIZE : 0;
    struct pollfd ends[SESSIONS_MAX];
    if (size > 1 && shell_says[which] && write(shell_says[which], bytes + 1, size - 1) < 0)
        hang_up(which);
    unsigned count = session_watch(ends);
    for (unsigned i = 0; i < count; i++)
        ends[i].revents = POLLIN;
    session_watched(ends, count);
}

static void check_sessions(void)
{
    for (const struct session *s = sessions; s < sessions + SESSIONS_MAX; s++) {
        if (!s->shell)
            continue;
        if (s->shell->state != RUNNING || s->shell->session != s || s->go < 0 || s->text < 0)
            abort();
        if (s->command && (s->command->state == FREE || s->command->session != s || !session_is_command(s->command)))
            abort();
    }
}

static void check(uint64_t before)
{
    check_sessions();
    unsigned taken = 0, alive = 0;
    if (highest < before)
        abort();
    for (unsigned i = 0; i < TABLE_SIZE; i++) {
        const struct execution *e = &table[i];
        if (e->state == FREE)
            continue;
        taken++;
        alive += e->state == RUNNING;
        if (i >= table_top || e->number > highest || e->id.length == 0
            || (e->state == ENDED && (!e->ending.kind || !e->ending.ended_ns)))
            abort();
        for (unsigned j = i + 1; j < TABLE_SIZE; j++)
            if (table[j].state != FREE && (table[j].number == e->number || memcmp(&table[j].id, &e->id, sizeof e->id) == 0))
                abort();
    }
    if (taken + vacant_count != TABLE_SIZE || alive < running)
        abort();
    static char room[HELLO_SIZE_MAX];
    if ((size_t)(put_hello(room, incarnation, secret, 0) - room) > sizeof room)
        abort();
}

static void user_act(const uint8_t *bytes, size_t size)
{
    static struct user user;
    char spec[64];
    size_t length = size ? bytes[0] % (sizeof spec - 1) : 0;
    if (size < 1 + length)
        return;
    memcpy(spec, bytes + 1, length);
    spec[length] = 0;
    passwd_file = bytes + 1 + length;
    passwd_size = size - 1 - length;
    if (user_find(spec, &user) == 0 && (user.group_count < 1 || user.group_count > GROUPS_MAX || !memchr(user.home, 0, sizeof user.home)))
        abort();
}

static void reset(void)
{
    for (unsigned i = 0; i < TABLE_SIZE; i++)
        if (table[i].state != FREE && table[i].session && !session_is_command(&table[i]))
            session_over(&table[i]);
    for (unsigned i = 0; i < TABLE_SIZE; i++) {
        hang_up(i);
        if (table[i].state != FREE) {
            table[i].state = ENDED;
            struct id id = table[i].id;
            table_ack(&id);
        }
        table[i] = (struct execution){0};
    }
    highest = 0;
    running = 0;
    connect_link();
    drain();
}

/* The lowest free descriptor rises when one is leaked. */
static void check_descriptors(void)
{
    static int lowest = -1;
    int probe = dup(server_end);
    close(probe);
    if (lowest < 0)
        lowest = probe;
    if (probe > lowest + 8)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool ready;
    if (!ready && (!table_setup() || signal(SIGPIPE, SIG_IGN) == SIG_ERR))
        abort();
    ready = true;
    reset();
    check_descriptors();
    while (size >= 3) { /* op, length, bytes */
        uint8_t op = data[0];
        size_t length = data[1] | (size_t)data[2] << 8;
        data += 3;
        size -= 3;
        if (length > size)
            length = size;
        uint64_t before = highest;
        switch (op % 8) {
        case 0: case 1: packet_act(data, length, false); break;
        case 2: socket_act(data, length); break;
        case 3: packet_act(data, length, true); break;
        case 4: finish_act(op); break;
        case 5: connect_link(); break;
        case 6: user_act(data, length); break;
        case 7: op < 128 ? (welcomed = fd >= 0, say_what_is_due()) : say_act(data, length); break;
        }
        drain();
        check(before);
        data += length;
        size -= length;
    }
    return 0;
}

#ifdef REPLAY
int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        static uint8_t bytes[1 << 20];
        FILE *file = fopen(argv[i], "rb");
        if (!file) {
            perror(argv[i]);
            return 1;
        }
        size_t size = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        LLVMFuzzerTestOneInput(bytes, size);
    }
    printf("%d inputs played\n", argc - 1);
    return 0;
}
#endif
