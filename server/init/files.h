/*
 * The file agent: a child of the init with one user's identity. It finds, opens and replaces files by the sandbox's own
 * paths, links and permissions, and hands what it opened to the server; contents travel through descriptors, not through
 * here. server/fileagent.py is the other half of this definition.
 *
 *     request = number u32 | op u8 | flags u8 | 0 u16 | handle u32 | mode u32 | mtime i64 s | mtime u32 ns | path | other
 *               [| content, of a WRITE, up to the packet's end]
 *     reply   = number u32 | error i32 | handle u32 | flags u32 | count u32 | entries…      [one descriptor]
 *     entry   = mode u32 | uid u32 | gid u32 | flags u32 | size u64 | mtime i64 s | mtime u32 ns | 0 u32 | dev u64 | ino u64
 *               | name | target
 *
 * Integers are little-endian, strings as on the link. What is BENEATH a handle is walked step by step: no link is followed
 * and nothing outside is reached. What is not is an absolute path, resolved by the kernel in the sandbox's own root.
 * Nothing is left behind: unfinished files have no name where the file system can do that (O_TMPFILE), and die with the
 * agent. Elsewhere they are named ".remote-env-upload-…", removed at the end of the socket, and left by SIGKILL alone. (A file
 * that replaces another has such a name for a moment everywhere: a link cannot replace.) An operation that hangs ends the agent.
 *
 * WRITE and REMOVE_TREE came later than the others. An agent that does not know them says ENOSYS, also to a WRITE without a
 * path, which does nothing; one with content would end it.
 */
#ifndef FILES_H
#define FILES_H

#include "link.h"

#include <errno.h>
#include <limits.h>
#include <sys/stat.h>

#define HANDLES_MAX 256
#define LISTED_MAX 16384 /* of getdents64 at once: the entries made of it, without targets, fit into one packet */
#define NOT_REGULAR 1001 /* an error of ours: a device, FIFO or socket */
#define ENTRY_SIZE 56    /* and two strings */

enum operation {
    STAT = 1, OPEN, DIRECTORY, NEXT, CREATE, COMMIT, MAKE_DIRECTORY, REMOVE, EMPTY, SYMLINK, LINK, SET, CLOSE, WRITE, REMOVE_TREE,
};
enum request_flag { BENEATH = 1, FOLLOW = 2, PARENTS = 4, EXIST_OK = 8, KEEP_MODE = 16, MTIME = 32 };
enum reply_flag { MORE = 1, MADE_UP = 2, REPLACED = 4, UNNAMED = 8 };
enum entry_flag { TARGET_LEFT_OUT = 1 };

/* A directory; with `file` also a file being written in it, which is to become `name`. */
struct handle {
    int directory, file;
    bool replaces, unnamed; /* unnamed: `temporary` is not there yet */
    mode_t replaced_mode;
    char temporary[40], name[NAME_MAX + 1];
};

/* A directory, and a path in it that is safe to use with *at calls. */
struct place {
    int directory; /* AT_FDCWD or to be closed, by place_leave */
    const char *name;
};

struct asked {
    uint8_t op, flags;
    uint32_t handle, mode;
    struct timespec mtime;
    char path[PACKET_LIMIT], other[PATH_MAX];
    const char *content; /* in the packet */
    size_t content_size;
};

struct reply {
    char packet[PACKET_LIMIT];
    char *at;
    uint32_t handle, flags, count;
    int fd; /* to be passed, or -1 */
    bool keep_fd;
};

/* files.c: the request being carried out, the reply being made; operations return 0 or an errno */
extern struct asked asked;
extern struct reply reply;
struct handle *handle_of(uint32_t number);
int new_handle(int directory, struct handle **taken);
void close_handle(struct handle *h);
bool fits(size_t more);
void put_entry(const struct stat *s, const char *name, const char *target, uint32_t flags);

/* files_places.c */
int place_find(char *path, struct place *found);
int place_destination(struct place *found, bool *there, struct stat *s);
void place_leave(const struct place *place); /* keeps errno */
bool place_follows(void);
int make_parents(char *path);
int refused(mode_t mode);
struct linux_dirent64 {
    uint64_t d_ino;
    int64_t d_off;
    uint16_t d_reclen;
    uint8_t d_type;
    char d_name[];
};
extern char listed[LISTED_MAX]; /* what getdents64 brought */
struct linux_dirent64 *next_entry(long *at, long size);

/* files_reading.c */
int do_stat(void);
int do_open(void);
int do_directory(void);
int do_next(void);

/* files_writing.c, files_removing.c, files_linking.c */
int do_create(void);
int do_commit(void);
int do_write(void);
int do_make_directory(void);
int do_remove(void);
int do_empty(void);
int do_remove_tree(void);
int do_symlink(void);
int do_link(void);
int do_set(void);

#endif
