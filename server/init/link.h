/*
 * The link's messages, version 3, and the socket they travel over. server/messages.py is the other half of this
 * definition and tells the format of each message; integers are little-endian.
 *
 *     packet = type u8 | flags u8 | 0 u16 | body length u32 | body
 *     string = length u32 | bytes
 */
#ifndef LINK_H
#define LINK_H

#include "init.h"

#ifndef LINK_VERSION
#define LINK_VERSION 3 /* a test builds an older one */
#endif
#define PACKET_LIMIT 65536
#define BODY_LIMIT (32u << 20)
#define HEADER_SIZE 8
#define PIPES_PER_PACKET 64
#define FLAG_LARGE 1

enum message_type {
    MESSAGE_RUN = 1, MESSAGE_SKIP, MESSAGE_KILL, MESSAGE_ACK, MESSAGE_SIGNAL, MESSAGE_ACTIVITY, MESSAGE_WELCOME,
    MESSAGE_FILES,
    MESSAGE_HELLO = 64, MESSAGE_PIPES, MESSAGE_STARTED, MESSAGE_ENDED, MESSAGE_STALE,
    MESSAGE_FILES_READY,
};
enum run_flag {
    RUN_STDIN = 1, RUN_SHELL = 2, RUN_MAKE_WORKDIR = 4, RUN_SPLIT = 8, RUN_SESSION = 16, RUN_TTY = 32, RUN_ECHO_OFF = 64,
    RUN_UNLINK_STDIN = 128, RUN_SCRIPT = 256,
};
enum ending_kind { ENDING_EXITED = 1, ENDING_FAILED_TO_START, ENDING_SKIPPED };
enum cause { CAUSE_NONE, CAUSE_TOTAL, CAUSE_IDLE, CAUSE_CANCEL };
enum ending_flag {
    ENDING_OUTPUT_OPEN = 1, ENDING_ALONE = 2, ENDING_RUNNER_KILLED = 4, ENDING_KILLED_BY_US = 8, ENDING_SESSION_OVER = 16,
    ENDING_CPU_COUNTED = 32, /* of a session's command, for which there is no wait4 */
};
enum stage {
    STAGE_NONE, STAGE_FORK, STAGE_PIPE, STAGE_USER, STAGE_WORKDIR, STAGE_EXEC, STAGE_STDIN, STAGE_CAPACITY,
    STAGE_REQUEST, STAGE_SESSION,
};
enum entry_state { ENTRY_RUNNING = 1, ENTRY_ENDED = 2 };

/* message.c: reading, with bounds checks; after a failure everything reads as zero and `bad` stays set */
struct cursor {
    char *at, *end;
    bool bad;
};
uint32_t take_u32(struct cursor *c);
uint64_t take_u64(struct cursor *c);
char *take_string(struct cursor *c, uint32_t *length); /* not NUL-terminated, holds no NUL */
struct id take_id(struct cursor *c);
bool message_request(struct cursor *c, struct request *request);

/* message.c: what came with a packet */
#define PASSED_MAX 253 /* descriptors in one (SCM_MAX_FD) */
struct msghdr;
char *message_large_body(int memory, uint32_t length); /* length + 1 bytes to be unmapped, or NULL */
unsigned message_descriptors(struct msghdr *message, int fds[PASSED_MAX]);

/* message.c: writing, into room that the caller knows to suffice */
#define ENDING_SIZE 56
#define ENTRY_SIZE_MAX (4 + ID_LENGTH_MAX + 8 + 1 + ENDING_SIZE)
#define SECRET_SIZE 16
#define HELLO_SIZE_MAX (4 + 2 * SECRET_SIZE + 8 + 4 + 4 + (size_t)TABLE_SIZE * ENTRY_SIZE_MAX)
char *put_u8(char *p, uint8_t value);
char *put_u32(char *p, uint32_t value);
char *put_u64(char *p, uint64_t value);
char *put_bytes(char *p, const void *bytes, size_t length);
char *put_id(char *p, const struct id *id);
char *put_ending(char *p, const struct ending *ending);
char *put_hello(char *p, const unsigned char *incarnation, const unsigned char *secret, uint32_t pipes);
void put_header(char header[HEADER_SIZE], uint8_t type, uint8_t flags, uint32_t body_length);

/* link.c */
bool link_setup(const char *path); /* false: the path is too long, or there is no randomness */
int link_fd(void);                 /* -1: there is no link */
short link_events(void);           /* for poll */
void link_read(short revents);
int64_t link_tick(void);           /* connect when it is time, say what is due; returns when to call again */
bool link_welcomed(void);
void link_say(struct execution *e); /* its *_due flags have something to say */
void link_stale(const struct id *id, uint64_t number);

#endif
