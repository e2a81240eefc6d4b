/* Clocks: a command's timeouts, the grace before its killing, the wait for an absent server, the init's own day. */
#include "link.h"

#include <signal.h>
#include <unistd.h>

#define DAY_MS (24ll * 3600 * 1000)
#define LONGEST_MS (1ll << 50) /* keeps sums within 64 bits */
#define LOOK_MS 50             /* how often pipes are looked at while the server is away */
#define EARLY_MS 100           /* of a command, within which it is interrupted twice */
#define SIGNAL_RETRY_MS 1      /* until the runner has forked its command */

static int64_t orphan_ms = DAY_MS;
static int64_t away_since; /* when the last accepted link was lost, or the init began */
static int64_t look_at;
static bool shutting_down;

static int64_t clamp(uint64_t ms)
{
    return ms > LONGEST_MS ? LONGEST_MS : (int64_t)ms;
}

int64_t clock_away_ms(void)
{
    return link_welcomed() ? 0 : now_ms() - away_since;
}

void clock_start(struct execution *e, const struct request *request)
{
    int64_t now = now_ms();
    e->began = now;
    e->hunt.grace_ms = request->grace_ms;
    e->idle_ms = clamp(request->idle_timeout_ms);
    e->deadline = request->timeout_ms ? now + clamp(request->timeout_ms) : NEVER;
    e->idle_deadline = e->idle_ms ? now + e->idle_ms : NEVER;
}

static void restart_idle(struct execution *e, int64_t now)
{
    if (e->idle_deadline != NEVER)
        e->idle_deadline = now + e->idle_ms;
}

void clock_activity(const struct id *id)
{
    struct execution *e = table_find(id);
    if (!e || e->state != RUNNING)
        return;
    for (unsigned i = 0; i < STREAMS_MAX; i++)
        e->streams[i].unread = 0;
    restart_idle(e, now_ms());
}

static bool has_processes(const struct execution *e)
{
    return e->runner || e->session;
}

void clock_condemn(struct execution *e, uint8_t cause)
{
    table_absorb(e); /* an end that came first wins */
    if (e->state != RUNNING || e->reported || !has_processes(e) || e->ending.cause != CAUSE_NONE)
        return;
    e->ending.cause = cause;
    e->deadline = e->idle_deadline = NEVER;
    e->hunt.phase = HUNT_GRACE;
    e->hunt.next = now_ms() + e->hunt.grace_ms;
    e->signals |= 1ull << ((session_is_command(e) ? SIGINT : SIGTERM) - 1);
    e->hunt.interrupt_again = session_is_command(e) && now_ms() - e->began < EARLY_MS;
    if (e->session && !session_is_command(e))
        e->signals |= 1ull << (SIGHUP - 1); /* an interactive shell has no ear for SIGTERM */
    table_send_signals(e);
}

/* ---- waits for an absent server ---- */

void clock_settle_wait(struct execution *e)
{
    if (e->full_since)
        e->ending.waited_ms += (uint64_t)(now_ms() - e->full_since);
    e->full_since = 0;
}

static void look_at_pipes(int64_t now)
{
    for (unsigned i = 0; i < table_top; i++) {
        struct execution *e = &table[i];
        if (e->state != RUNNING)
            continue;
        bool full = stream_full(e);
        if (!full)
            clock_settle_wait(e);
        else if (!e->full_since)
            e->full_since = now;
        if (stream_grew(e) || full)
            restart_idle(e, now);
    }
}

void clock_welcome(uint64_t ms)
{
    orphan_ms = clamp(ms);
    for (unsigned i = 0; i < table_top; i++)
        if (table[i].state == RUNNING)
            clock_settle_wait(&table[i]);
}

void clock_server_lost(void)
{
    away_since = look_at = now_ms();
}

/* ---- what is due ---- */

static void tick_execution(struct execution *e, int64_t now)
{
    if (e->state != RUNNING || !has_processes(e))
        return;
    if (session_is_command(e) && now >= e->hunt.interrupt_at) {
        e->hunt.interrupt_at = NEVER;
        e->signals |= 1ull << (SIGINT - 1);
    }
    if (e->signals)
        table_send_signals(e);
    if (now >= e->deadline)
        clock_condemn(e, CAUSE_TOTAL);
    else if (now >= e->idle_deadline) {
        if (stream_grew(e) || stream_full(e))
            restart_idle(e, now); /* who waits for us does not idle */
        else
            clock_condemn(e, CAUSE_IDLE);
    }
    if (e->hunt.phase == HUNT_GRACE && now >= e->hunt.next) {
        if (session_is_command(e) && !e->hunt.warned)
            e->hunt.phase = HUNT_TERM;
        else
            tree_hunt(e);
    }
}

static int64_t earliest(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

void clock_shutdown(void)
{
    if (settings.pid == 1)
        _exit(0); /* the kernel kills what is left of a pid namespace */
    shutting_down = true;
    tree_hunt_orphans(true);
}

bool clock_shutting_down(void)
{
    return shutting_down;
}

int64_t clock_tick(void)
{
    int64_t now = now_ms(), next = NEVER;
    bool round = orphan_hunt.phase != HUNT_NONE && now >= orphan_hunt.next;
    if (!away_since)
        away_since = look_at = now;
    for (unsigned i = 0; i < table_top; i++) {
        struct execution *e = &table[i];
        if (e->state != RUNNING)
            continue;
        tick_execution(e, now);
        round |= e->hunt.phase > HUNT_GRACE && now >= e->hunt.next;
        if (e->hunt.phase == HUNT_KILL && session_is_command(e) && !e->reported && now >= e->hunt.patience_ends)
            session_give_up(e);
    }
    if (round)
        tree_round(now);
    if (orphan_hunt.phase == HUNT_NONE) {
        if (shutting_down)
            _exit(0);
    } else {
        next = orphan_hunt.next;
    }
    for (unsigned i = 0; i < table_top; i++) {
        const struct execution *e = &table[i];
        if (e->state != RUNNING)
            continue;
        next = earliest(next, earliest(e->deadline, earliest(e->idle_deadline, e->hunt.next)));
        if (session_is_command(e))
            next = earliest(next, e->hunt.interrupt_at);
        if (e->signals)
            next = earliest(next, now + SIGNAL_RETRY_MS);
    }
    if (link_welcomed())
        return next;
    if (now - away_since >= orphan_ms && !shutting_down)
        clock_shutdown();
    if (now >= look_at) {
        look_at_pipes(now);
        look_at = now + LOOK_MS;
    }
    return earliest(next, earliest(look_at, away_since + orphan_ms));
}
