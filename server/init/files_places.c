/* Where a path leads, and which way it may take there. */
#include "files.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define LINKS_MAX 40 /* the kernel's own bound */

/* The directory in which the last step of `path` lies. "" is the directory of the handle itself, ".". */
static int walk(uint32_t number, char *path, struct place *found)
{
    struct handle *h = handle_of(number);
    if (!h)
        return EBADF;
    int at = openat(h->directory, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    for (char *step = path; at >= 0; step = strchr(step, 0) + 1) {
        char *slash = strchr(step, '/');
        if (slash)
            *slash = 0;
        if ((!*step && step > path) || (!*step && slash) || strcmp(step, ".") == 0 || strcmp(step, "..") == 0) {
            close(at);
            return EINVAL;
        }
        if (!slash) {
            *found = (struct place){at, *step ? step : "."};
            return 0;
        }
        int next = openat(at, step, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), error = errno;
        close(at);
        at = next;
        errno = error;
    }
    return errno;
}

int place_find(char *path, struct place *found)
{
    if (asked.flags & BENEATH)
        return walk(asked.handle, path, found);
    *found = (struct place){AT_FDCWD, path};
    return *path == '/' ? 0 : EINVAL;
}

void place_leave(const struct place *place)
{
    int error = errno;
    if (place->directory != AT_FDCWD)
        close(place->directory);
    errno = error;
}

/* Links are followed only outside of a handle, and only where that was asked for. */
bool place_follows(void)
{
    return (asked.flags & (BENEATH | FOLLOW)) == FOLLOW;
}

int make_parents(char *path)
{
    for (char *slash = path + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        int failed = mkdir(path, 0755) && errno != EEXIST ? errno : 0;
        *slash = '/';
        if (failed)
            return failed;
    }
    return 0;
}

int refused(mode_t mode)
{
    return S_ISREG(mode) ? 0 : S_ISDIR(mode) ? EISDIR : S_ISLNK(mode) ? ELOOP : NOT_REGULAR;
}

/* Follows the links that `path` ends in, to what they lead to, there or not. */
static int resolve(char path[PATH_MAX], bool *there, struct stat *s)
{
    struct stat whole;
    *there = stat(path, &whole) == 0;
    if (!*there && errno != ENOENT)
        return errno;
    int error = *there ? refused(whole.st_mode) : 0;
    for (int links = 0; !error; links++) {
        if (lstat(path, s))
            return errno == ENOENT ? 0 : errno;
        if (!S_ISLNK(s->st_mode)) /* another file than the kernel finds: a link of /proc that is more than its text */
            return !*there || (s->st_dev == whole.st_dev && s->st_ino == whole.st_ino) ? refused(s->st_mode) : NOT_REGULAR;
        char target[PATH_MAX];
        ssize_t length = readlink(path, target, sizeof target);
        char *end = length > 0 && *target == '/' ? path : strrchr(path, '/') + 1;
        if (length < 0)
            return errno;
        if (end + length >= path + PATH_MAX)
            return ENAMETOOLONG;
        memcpy(end, target, (size_t)length);
        end[length] = 0;
        error = links == LINKS_MAX ? ELOOP : 0;
    }
    return error;
}

/* The directory that the file goes to, its name in there, and what is there already. */
int place_destination(struct place *place, bool *there, struct stat *s)
{
    static char path[PATH_MAX];
    if (asked.flags & BENEATH) {
        int error = walk(asked.handle, asked.path, place);
        if (error)
            return error;
        *there = fstatat(place->directory, place->name, s, AT_SYMLINK_NOFOLLOW) == 0;
        error = *there ? (S_ISDIR(s->st_mode) ? EISDIR : 0) : errno == ENOENT ? 0 : errno;
        if (error)
            place_leave(place);
        return error;
    }
    if (*asked.path != '/')
        return EINVAL;
    if (strlen(asked.path) >= sizeof path)
        return ENAMETOOLONG;
    strcpy(path, asked.path);
    int error = resolve(path, there, s);
    if (error)
        return error;
    if (*there && faccessat(AT_FDCWD, path, W_OK, 0)) /* to replace needs a writable directory only: be as `>` is */
        return errno;
    char *name = strrchr(path, '/') + 1;
    if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return EISDIR;
    if ((asked.flags & PARENTS) && (error = make_parents(path)))
        return error;
    char first = *name;
    *name = 0;
    place->directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    *name = first;
    place->name = name;
    return place->directory < 0 ? errno : 0;
}

_Alignas(struct linux_dirent64) char listed[LISTED_MAX];

/* The next entry that is neither "." nor "..", or NULL at the end of what was read. */
struct linux_dirent64 *next_entry(long *at, long size)
{
    while (*at < size) {
        struct linux_dirent64 *d = (void *)(listed + *at);
        *at += d->d_reclen;
        if (strcmp(d->d_name, ".") && strcmp(d->d_name, ".."))
            return d;
    }
    return NULL;
}

