/* Removing files, directories and trees. No link is followed on the way down. */
#include "files.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REMOVED_MAX 1000 /* entries in one request */
#define DEPTH_MAX 100    /* of a tree that is removed in one go: each level takes a descriptor and a buffer */

static int remove_at(int directory, const char *name, bool is_directory)
{
    return unlinkat(directory, name, is_directory ? AT_REMOVEDIR : 0) ? errno : 0;
}

int do_remove(void)
{
    struct place place;
    struct stat s;
    int error = place_find(asked.path, &place);
    if (error)
        return error;
    error = fstatat(place.directory, place.name, &s, AT_SYMLINK_NOFOLLOW) ? errno : 0;
    if (!error)
        error = remove_at(place.directory, place.name, S_ISDIR(s.st_mode));
    place_leave(&place);
    return error;
}

/* Removes what can be removed from a directory at once; answers its directories that are not empty. */
int do_empty(void)
{
    struct place place;
    int error = place_find(asked.path, &place);
    if (error)
        return error;
    int fd = openat(place.directory, place.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    error = fd < 0 ? errno : 0;
    place_leave(&place);
    long size = 0;
    for (unsigned seen = 0; !error && (size = syscall(SYS_getdents64, fd, listed, sizeof listed)) > 0;) {
        long at = 0;
        for (struct linux_dirent64 *d; !error && (d = next_entry(&at, size)); seen++) {
            struct stat s;
            if (fstatat(fd, d->d_name, &s, AT_SYMLINK_NOFOLLOW))
                continue;
            error = remove_at(fd, d->d_name, S_ISDIR(s.st_mode));
            if (S_ISDIR(s.st_mode) && (error == ENOTEMPTY || error == EEXIST)) {
                error = 0;
                if (fits(ENTRY_SIZE + 8 + strlen(d->d_name)))
                    put_entry(&s, d->d_name, "", 0);
            }
            error = error == ENOENT ? 0 : error;
        }
        if (seen >= REMOVED_MAX) {
            reply.flags |= MORE;
            break;
        }
    }
    if (size < 0)
        error = errno;
    if (fd >= 0)
        close(fd);
    return error;
}

/* Removes what is in a directory, and below. ENOTEMPTY: somebody put something in meanwhile; ELOOP: too deep. */
static int clear_tree(int fd, unsigned depth, unsigned *left)
{
    _Alignas(struct linux_dirent64) char buffer[4096];
    int error = depth ? 0 : ELOOP;
    long size = 0;
    while (!error && (size = syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0) {
        for (long at = 0; !error && at < size;) {
            struct linux_dirent64 *d = (void *)(buffer + at);
            at += d->d_reclen;
            if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
                continue;
            if (!*left)
                return 0;
            --*left;
            struct stat s;
            bool is_directory = d->d_type == DT_DIR
                || (d->d_type == DT_UNKNOWN && fstatat(fd, d->d_name, &s, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(s.st_mode));
            error = remove_at(fd, d->d_name, is_directory);
            if (is_directory && (error == ENOTEMPTY || error == EEXIST)) {
                int below = openat(fd, d->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
                error = below < 0 ? errno : clear_tree(below, depth - 1, left);
                if (below >= 0)
                    close(below);
                if (!error && !*left)
                    return 0;
                error = error ? error : remove_at(fd, d->d_name, true);
            }
            error = error == ENOENT ? 0 : error;
        }
    }
    return size < 0 ? errno : error;
}

/* A tree, or so much of it as is bounded; with MORE there is something left. Which entry an error is about is not said. */
int do_remove_tree(void)
{
    struct place place;
    unsigned left = REMOVED_MAX;
    int error = place_find(asked.path, &place);
    if (error)
        return error;
    int fd = openat(place.directory, place.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    error = fd < 0 ? errno : clear_tree(fd, DEPTH_MAX, &left);
    if (!error && left)
        error = remove_at(place.directory, place.name, true);
    reply.flags |= !error && !left ? MORE : 0;
    if (fd >= 0)
        close(fd);
    place_leave(&place);
    return error;
}
