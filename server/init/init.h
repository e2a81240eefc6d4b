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
 *                (its passwd file, its working directory) is touched by the command's own process only.   (command.c)
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
 * 14. OWN WORD   What a session's shell says of a command is the sandbox's word: it is believed of that session alone, read
 *                a bounded piece a turn, and a word out of place costs the session. There are at most 64.   (session.c)
 *
 * Processes:   init ─ runner (same session as the init, child subreaper) ─ command (a session of its own) ─ …
 *                   └ file agent (same session as the init, a user's identity)
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
#define SESSIONS_MAX 64
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

enum hunt_phase { HUNT_NONE, HUNT_GRACE, HUNT_TERM, HUNT_FREEZE, HUNT_KILL };

/* One killing: SIGTERM and a grace, then rounds over /proc that freeze, then rounds that kill. A session's command: SIGINT
   to its shell and a grace, a round of SIGTERM to what the command started and a grace, then the same rounds. */
struct hunt {
    enum hunt_phase phase;
    unsigned rounds, vain; /* rounds so far in this phase; kill rounds in a row that found nothing */
    int64_t next;          /* ms, when the phase goes on */
    int64_t grace_ms;
    bool warned;           /* the round of SIGTERM has been */
    int64_t interrupt_at;  /* ms, when SIGINT is sent once more; of a session's command */
    bool interrupt_again;  /* that is, a while after the first */
    int64_t patience_ends; /* ms, when the shell itself goes if it still says nothing */
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
    pid_t runner;             /* 0: gone, or a session's command, which has none of its own */
    struct session *session;  /* that it is the shell or a command of, while that lives */
    bool terminal;            /* its read end is a terminal's other side */
    struct stream streams[STREAMS_MAX];
    struct ending ending;
    uint64_t oom_before;
    uint64_t signals; /* bit n-1: signal n is to be sent to the process group */
    int64_t began, deadline, idle_deadline, idle_ms;
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
    struct id session; /* length 0: none */
    uint32_t rows, columns;
    char *stdin_path;
    uint32_t stdin_path_length;
    int stdin_fd; /* -1: none was passed */
};

/* What a command's process is given, -1 where there is none. The init closes its own after the fork. */
struct ends {
    int out[STREAMS_MAX]; /* where it writes: one for both, or stdout's and stderr's */
    int terminal;
    int go, text, status, go_on; /* a session's shell: see session.c; go_on is the init's end of go */
};
#define ENDS (sizeof(struct ends) / sizeof(int))

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
void table_end_unrun(struct execution *e, uint8_t kind, uint8_t stage, int32_t error);
void table_end_running(struct execution *e);
void table_started(struct execution *e, const struct request *request);
struct report *table_report(const struct execution *e);
struct execution *table_find(const struct id *id);
void table_collect(void);                      /* take in what runners reported */
void table_absorb(struct execution *e);
void table_reap(void);                         /* wait for children */
void table_orphans_gone(void);

/* stream.c; 0 or an errno */
unsigned stream_read_ends(const struct execution *e, int fds[STREAMS_MAX]); /* those that there are, stdout's first */
bool stream_make_pipe(int *read_end, int *write_end);
int stream_make(struct execution *e, const struct request *request, struct ends *ends);
int stream_copy(struct execution *e, const int read_ends[STREAMS_MAX]);
bool stream_full(const struct execution *e); /* whoever writes has to wait */
bool stream_grew(struct execution *e);       /* since it was asked last */
void stream_close(struct execution *e);
void ends_close(const struct ends *ends);

/* terminal.c */
int terminal_make(const struct request *request, int *master, int *terminal); /* 0 or an errno */
void terminal_renew(int terminal, bool echo); /* nothing is typed, modes are as at first */
int terminal_enter(int terminal, uid_t uid);  /* makes it the calling session's; 0 or an errno */

/* session.c */
struct session {
    struct execution *shell;   /* NULL: this one is free */
    struct execution *command; /* that runs or waits for its ACK */
    int go, text, status;      /* numbers to the shell; what it is to run; numbers and exit codes from it */
    int master, terminal;      /* the sides of its terminal, or -1 */
    bool echo;                 /* of the terminal */
    bool heard;                /* the shell is there: it has said something */
    bool plain;                /* it is no bash */
    bool on_terminal;          /* its command is to run there */
    uint64_t began;            /* when its command was sent, in ticks since boot as /proc has them */
    pid_t before;              /* the last pid that there was then */
    char line[32];             /* of what it says, so far */
    unsigned length, noise;    /* noise: lines since its command was sent */
    uint32_t size;             /* of its command */
    int stat;                  /* the shell's own in /proc, or -1 */
    bool counted;              /* `cpu` is known */
    uint64_t cpu;              /* ticks that the shell had had before its command, with what it has waited for */
    uint64_t busy_since;       /* ticks, plus 1, that it had had when an interrupt began to wait for it; 0: none does */
};
int session_open(struct execution *shell, const struct request *request, struct ends *ends); /* 0 or an errno */
void session_run(struct execution *e, const struct request *request);
bool session_is_command(const struct execution *e);
void session_hear(struct session *s);         /* a bounded piece of what its shell says */
bool session_idle(const struct session *s);   /* no command of its own runs */
bool session_interruptible(struct session *s); /* now; else a moment later */
void session_over(struct execution *shell);   /* its shell has ended */
void session_give_up(struct execution *e);    /* its command cannot be ended but by ending all of it */
void session_forget(const struct execution *e);
struct pollfd;
unsigned session_watch(struct pollfd *fds);   /* the ends to wait at, at most SESSIONS_MAX */
void session_watched(const struct pollfd *fds, unsigned count);

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
pid_t run_start(const struct execution *e, struct report *report, struct request *request, const struct ends *ends);
void close_all_but(int *kept, size_t count);

/* command.c */
void raise_oom_score(void);
_Noreturn void command_start(struct request *request, pid_t runner, const struct ends *ends, struct report *report);

/* shell.c */
#define SHELL_ARGUMENTS 8
int shell_arm(const struct ends *ends, bool bash); /* puts a session's descriptors in their places; 0 or an errno */
void shell_arguments(char *const *argv, bool bash, char *out[SHELL_ARGUMENTS]);
bool shell_is_bash(const char *program);
/* What `text` begins with; bash begins to read behind it. */
#define SHELL_FIRST "{ exec 8<&-; case $- in *e*) ;; *) _remote_env \"$REMOTE_ENV\";; esac; } 2>/dev/null; "
bool shell_send(const struct session *s, uint64_t number, bool pass_over); /* "run what is in `text`", more than once where need
                                                                               be; or not to run it, as if it had been interrupted */
bool shell_ask(const struct session *s);                   /* to say once more what became of the last number */

/* agent.c */
int agent_start(const char *user, uint32_t length, int *socket); /* 0 or an errno */
bool agent_gone(pid_t pid); /* true: it was one */

/* files.c */
_Noreturn void files_serve(int socket);

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
int user_become(const struct user *user);           /* 0 or an errno */

#endif
