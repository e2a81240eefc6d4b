/*
 * The init: PID 1 of every sandbox. It starts commands for a server that may die at any moment, keeps what became of
 * them until the server has it in its journal, and gives nothing that runs in the sandbox a say in any of it.
 *
 * What it promises, and where:
 *
 *  1. REFUSE     A number is taken once. A RUN or SKIP whose number is not higher than the highest taken is answered
 *                STALE and changes nothing, whatever the table says.                                        (table.c)
 *  2. ONE ENDING Every number taken gets exactly one ending: what cannot be started is an ending too.       (table.c)
 *  3. ACKAFTER   An ending, and the read ends of its output, are kept until the server's ACK; then the id is forgotten.
 *  4. ONELINK    There is one link. The old socket is closed before the table is written down for the next hello; what
 *                was unread in it is void, what was unsaid on it is in the hello.                            (link.c)
 *  5. BOUNDED    Nothing is allocated on behalf of server or sandbox. The table is static; messages are not queued but
 *                derived from it; what cannot be taken in stays unread.                             (table.c, link.c)
 *  6. NO WAITING This process never blocks: not on the server, not on the sandbox. Whatever a sandbox can make slow
 *                (its passwd file, its working directory) is touched by the command's own process only.       (run.c)
 *  7. CLOCKS     Only the init enforces a command's timeouts; they hold while the server is away.           (clock.c)
 *  8. WHOLE KILL What a command started is found by descent, not by name, group or session: the runner is a child
 *                subreaper. After a timeout, a KILL or a main process that the OOM killer took, the ending is said when
 *                all of it is dead.                                                                          (tree.c)
 *  9. ORPHANS    A runner killed from inside costs its own command: what it leaves behind is killed, then it ends.
 * 10. UNFORGED   Nothing is believed because a process of the sandbox could have said it: reports come through memory
 *                that only init and runner share, signals are mere wake-ups, SIGTERM counts from outside only.
 * 11. HYGIENE    Every descriptor is close-on-exec. Init and runners are not dumpable. A command gets 0, 1 and 2.
 * 12. ORPHANED   An init without an accepted hello for a day (the server sets it) ends its sandbox.        (clock.c)
 * 13. NO MEMORY  Where the sandbox leaves it no memory to get on with, everybody else is stopped until it has.
 *                                                                                                          (memory.c)
 *
 * Processes:   init ─ runner (same session as the init, child subreaper) ─ command (a session of its own) ─ …
 */
#ifndef INIT_H
#define INIT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifndef TABLE_SIZE
#define TABLE_SIZE 2048 /* executions that run or wait for their ACK; a full table stops reading */
#endif
#define ID_LENGTH_MAX 64
#define NEVER INT64_MAX

/* An id compares as a whole: bytes beyond its length are zero. */
struct id {
    uint8_t length;
    char text[ID_LENGTH_MAX];
};

struct ending {
    uint8_t kind, cause, flags, stage; /* link.h */
    int32_t status;                    /* a wait status, or an errno */
    uint64_t started_ns, ended_ns;     /* wall clock */
    uint64_t cpu_us, max_rss_bytes, waited_ms;
    uint32_t oom_kills;
};

/* What init and runner tell each other, in memory that both map. Valid for the init once `done` is set. */
struct report {
    _Atomic uint32_t done;
    _Atomic int32_t command;   /* pid of the command's main process, 0 before it is forked */
    _Atomic uint64_t released; /* set by the init: executions up to this number, in this slot, are acknowledged */
    int32_t stage, error;      /* set where it failed to start */
    int32_t status;
    bool children_left;
    uint64_t ended_ns, cpu_us, max_rss_bytes;
};

/* Where a command writes: one pipe for all, or one for stdout and one for stderr. */
#define STREAMS_MAX 2
struct stream {
    int read_end; /* kept until the ACK, or -1 */
    int unread;   /* bytes in the pipe when last looked at */
};

enum hunt_phase { HUNT_NONE, HUNT_GRACE, HUNT_FREEZE, HUNT_KILL };

/* One killing: SIGTERM and a grace, then rounds over /proc that freeze, then rounds that kill. */
struct hunt {
    enum hunt_phase phase;
    unsigned rounds, vain; /* rounds so far in this phase; kill rounds in a row that found nothing */
    int64_t next;          /* ms, when the phase goes on */
    unsigned fresh, found; /* of the round at hand: not frozen yet; seen at all */
};

enum state { FREE, RUNNING, ENDED };

struct execution {
    enum state state;
    bool reported;     /* the main process's end is in `ending`; what is left of it is being killed */
    bool await_orphans; /* its runner is dead; it ends when the orphans are */
    bool alone;
    bool started_due, ended_due, queued; /* what the link has yet to say of it */
    struct id id;
    uint64_t number;
    pid_t runner;
    struct stream streams[STREAMS_MAX];
    struct ending ending;
    uint64_t oom_before;
    uint64_t signals; /* bit n-1: signal n is to be sent to the process group */
    int64_t deadline, idle_deadline, idle_ms, grace_ms;
    int64_t full_since; /* since when a pipe of it is full with nobody there to read it, 0: none is */
    struct hunt hunt;
};

struct request { /* a RUN, its strings still lying in the message, without NULs at their ends */
    uint64_t number;
    struct id id;
    uint32_t flags;
    uint64_t timeout_ms, idle_timeout_ms;
    uint32_t grace_ms;
    char *user, *workdir, *argv, *env;
    uint32_t user_length, workdir_length, argc, envc;
    int stdin_fd; /* -1: none was passed */
};

/* main.c */
struct settings {
    bool keep_home;
    pid_t pid, session;
    int oom_score_adj;      /* of commands */
    uint64_t nofile_soft, nofile_hard; /* as the engine gave them */
    int wake;               /* eventfd by which runners call the init */
};
extern struct settings settings;
int64_t now_ms(void);    /* CLOCK_MONOTONIC */
uint64_t wall_ns(void);  /* since 1970 */

/* table.c */
extern struct execution table[TABLE_SIZE];
extern struct report *reports; /* one for each slot of the table */
extern unsigned table_top;     /* slots at and above were never used */
extern uint64_t highest;
bool table_setup(void);
bool table_full(void);
bool table_run(struct request *request); /* false: against the protocol, as is an id that is in the table */
bool table_skip(uint64_t number, const struct id *id);
void table_ack(const struct id *id);
void table_signal(const struct id *id, uint32_t signal);
void table_send_signals(struct execution *e);
struct execution *table_find(const struct id *id);
unsigned table_read_ends(const struct execution *e, int fds[STREAMS_MAX]); /* those that there are, stdout's first */
void table_collect(void);                      /* take in what runners reported */
void table_absorb(struct execution *e);
void table_reap(void);                         /* wait for children */
void table_orphans_gone(void);

/* clock.c */
void clock_start(struct execution *e, const struct request *request);
void clock_condemn(struct execution *e, uint8_t cause); /* SIGTERM, grace, kill */
void clock_activity(const struct id *id);
void clock_welcome(uint64_t orphan_ms);
void clock_server_lost(void);
int64_t clock_away_ms(void);                 /* how long no hello has been accepted */
void clock_settle_wait(struct execution *e); /* add a wait for the server that ends now */
int64_t clock_tick(void);                    /* do what is due, return when the next is */
void clock_shutdown(void);                   /* kill everything, exit */
bool clock_shutting_down(void);

/* tree.c */
extern struct hunt orphan_hunt;
void tree_hunt_orphans(bool runners_too);
void tree_hunt(struct execution *e);
void tree_round(int64_t now);
bool tree_striking(void); /* a hunt has begun and nothing of it is killed yet */

/* memory.c */
bool memory_setup(void);
uint64_t oom_kills(void); /* the sandbox's count of processes killed for want of memory */
void memory_turn_begins(void);
void memory_turn_ends(void);

/* run.c */
pid_t run_start(struct execution *e, struct report *report, struct request *request, const int write_ends[STREAMS_MAX]);

/* user.c */
#define GROUPS_MAX 1024
struct user {
    uid_t uid;
    gid_t gid;
    size_t group_count;
    gid_t groups[GROUPS_MAX];
    char home[4096];
};
int user_find(const char *spec, struct user *user); /* 0 or an errno */

#endif
