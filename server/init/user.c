/* Users and groups from the image's own files, by the rules of `docker exec --user`. Runs in the command's process. */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* A file of fields between ':' (and ',' in member lists), read as it comes: a line may have any length. */
struct fields {
    int fd;
    size_t at, size;
    char buffer[4096];
};

static bool fields_open(struct fields *f, const char *path)
{
    struct stat status;
    f->at = f->size = 0;
    f->fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (f->fd >= 0 && (fstat(f->fd, &status) || !S_ISREG(status.st_mode))) {
        close(f->fd);
        f->fd = -1;
    }
    return f->fd >= 0;
}

static int next_char(struct fields *f)
{
    if (f->at == f->size) {
        ssize_t n = read(f->fd, f->buffer, sizeof f->buffer);
        if (n <= 0)
            return -1;
        f->size = (size_t)n;
        f->at = 0;
    }
    return (unsigned char)f->buffer[f->at++];
}

/* The next field, cut at `size`; returns what ended it: one of `stops`, '\n', or -1 at the end of the file. */
static int next_field(struct fields *f, const char *stops, char *text, size_t size)
{
    size_t length = 0;
    int c;
    while ((c = next_char(f)) >= 0 && c != '\n' && !(c && strchr(stops, c)))
        if (length + 1 < size)
            text[length++] = (char)c;
    text[length] = 0;
    return c;
}

static bool number(const char *text, uint32_t *value)
{
    uint64_t n = 0;
    if (!*text)
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || (n = n * 10 + (uint64_t)(*text - '0')) > INT32_MAX)
            return false;
    }
    *value = (uint32_t)n;
    return true;
}

/* The first passwd line that fits. `name` (NAME_SIZE) becomes the entry's. */
#define NAME_SIZE 256
static bool find_passwd(char *name, bool by_uid, struct user *user)
{
    static struct fields f;
    if (!fields_open(&f, "/etc/passwd"))
        return false;
    bool found = false;
    for (int stop = 0; stop >= 0 && !found;) {
        char field[6][sizeof user->home];
        uint32_t uid, gid;
        int count = 0;
        do {
            stop = next_field(&f, ":", field[count < 6 ? count : 5], sizeof field[0]);
            count++;
        } while (stop == ':' && count < 6);
        while (stop == ':') {
            char rest[16];
            stop = next_field(&f, "", rest, sizeof rest);
        }
        if (count < 4 || !number(field[2], &uid) || !number(field[3], &gid) || strlen(field[0]) >= NAME_SIZE)
            continue;
        if (by_uid ? uid != user->uid : strcmp(field[0], name) != 0)
            continue;
        found = true;
        strcpy(name, field[0]);
        user->uid = uid;
        user->gid = gid;
        if (count == 6 && field[5][0])
            strcpy(user->home, field[5]);
    }
    close(f.fd);
    return found;
}

/* With `wanted`: the gid of that group. Without: adds the groups that list `member`. 0 or an errno. */
static int find_groups(const char *wanted, const char *member, struct user *user)
{
    static struct fields f;
    if (!fields_open(&f, "/etc/group"))
        return wanted ? ENOENT : 0;
    int error = wanted ? ENOENT : 0;
    for (int stop = 0; stop >= 0 && (!wanted || error);) {
        char name[NAME_SIZE], text[NAME_SIZE];
        uint32_t gid = 0;
        stop = next_field(&f, ":", name, sizeof name);
        if (stop == ':')
            stop = next_field(&f, ":", text, sizeof text);
        if (stop == ':')
            stop = next_field(&f, ":", text, sizeof text);
        bool good = number(text, &gid);
        if (wanted && good && strcmp(name, wanted) == 0) {
            user->gid = gid;
            error = 0;
        }
        bool listed = false;
        while (stop == ':' || stop == ',') {
            stop = next_field(&f, ",", text, sizeof text);
            listed |= strcmp(text, member) == 0;
        }
        if (wanted || !good || !listed)
            continue;
        if (user->group_count == GROUPS_MAX) {
            error = E2BIG;
            break;
        }
        user->groups[user->group_count++] = gid;
    }
    close(f.fd);
    return error;
}

int user_become(const struct user *user)
{
    bool already = user->uid == geteuid() && user->gid == getegid();
    if (setgroups(user->group_count, user->groups) && !(errno == EPERM && already))
        return errno;
    if (setgid(user->gid) || setuid(user->uid))
        return errno;
    prctl(PR_SET_DUMPABLE, 0); /* setuid may have reset it; a program's own start does, for itself */
    return 0;
}

int user_find(const char *spec, struct user *user)
{
    char name[NAME_SIZE], group[NAME_SIZE] = "";
    const char *colon = strchr(spec, ':');
    size_t length = colon ? (size_t)(colon - spec) : strlen(spec);
    if (length >= sizeof name || (colon && strlen(colon + 1) >= sizeof group))
        return ENOENT;
    memcpy(name, spec, length);
    name[length] = 0;
    if (colon)
        strcpy(group, colon + 1);
    user->uid = 0;
    user->gid = 0;
    user->group_count = 1; /* the first is the primary one */
    strcpy(user->home, "/");

    bool by_uid = length == 0 || number(name, &user->uid);
    bool known = find_passwd(name, by_uid, user);
    if (!known && !by_uid)
        return ENOENT;
    int error = 0;
    uint32_t gid;
    if (!*group)
        error = known ? find_groups(NULL, name, user) : 0;
    else if (number(group, &gid))
        user->gid = gid;
    else
        error = find_groups(group, "", user);
    user->groups[0] = user->gid;
    return error;
}
