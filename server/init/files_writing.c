/* Writing files whole or not at all; making, linking and removing. */
#include "files.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REMOVED_MAX 1000 /* entries in one request */
#define IN_PLACE_MAX (64 << 20)

int do_create(void)
{
    struct place place;
    struct stat s;
    struct handle *h;
    bool there;
    uint64_t random;
    int error = place_destination(&place, &there, &s);
    if (error)
        return error;
    if (strlen(place.name) > NAME_MAX || getrandom(&random, sizeof random, 0) != sizeof random) {
        error = strlen(place.name) > NAME_MAX ? ENAMETOOLONG : EAGAIN;
        place_leave(&place);
        return error;
    }
    if ((error = new_handle(place.directory, &h)))
        return error;
    strcpy(h->name, place.name);
    snprintf(h->temporary, sizeof h->temporary, ".remote-env-upload-%016llx", (unsigned long long)random);
    h->replaces = there;
    h->replaced_mode = there ? s.st_mode & 07777 : 0;
    h->file = openat(h->directory, h->temporary, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC, 0600);
    if (h->file < 0) {
        error = errno;
        close_handle(h);
        return error;
    }
    reply.fd = h->file;
    reply.keep_fd = true;
    reply.flags |= there ? REPLACED : 0;
    return 0;
}

/* A mount point, such as the engine's own /etc/hosts, can be written but not replaced. */
static int write_in_place(const struct handle *h)
{
    static char piece[65536];
    struct stat s;
    if (fstat(h->file, &s) || s.st_size > IN_PLACE_MAX)
        return EBUSY;
    int fd = openat(h->directory, h->name, O_WRONLY | O_TRUNC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    int error = fd < 0 ? errno : fstat(fd, &s) ? errno : refused(s.st_mode);
    ssize_t size;
    for (off_t at = 0; !error && (size = pread(h->file, piece, sizeof piece, at)) != 0; at += size)
        if (size < 0 || write(fd, piece, (size_t)size) != size)
            error = errno ? errno : ENOSPC;
    if (fd >= 0)
        close(fd);
    return error;
}

static int set_attributes(int fd, mode_t mode)
{
    struct timespec times[2] = {asked.mtime, asked.mtime};
    return fchmod(fd, mode & 07777) || ((asked.flags & MTIME) && futimens(fd, times)) ? errno : 0;
}

int do_commit(void)
{
    struct handle *h = handle_of(asked.handle);
    struct stat s;
    if (!h || h->file < 0)
        return EBADF;
    int error = set_attributes(h->file, (asked.flags & KEEP_MODE) && h->replaces ? h->replaced_mode : asked.mode);
    if (!error && renameat(h->directory, h->temporary, h->directory, h->name))
        error = errno == EBUSY ? write_in_place(h) : errno;
    if (!error)
        error = fstatat(h->directory, h->name, &s, AT_SYMLINK_NOFOLLOW) ? errno : 0;
    if (!error)
        put_entry(&s, "", "", 0);
    reply.flags |= h->replaces ? REPLACED : 0;
    close_handle(h);
    return error;
}

int do_make_directory(void)
{
    struct place place;
    struct stat s;
    if ((asked.flags & (PARENTS | BENEATH)) == PARENTS) {
        int error = *asked.path == '/' ? make_parents(asked.path) : EINVAL;
        if (error)
            return error;
    }
    int error = place_find(asked.path, &place);
    if (error)
        return error;
    error = mkdirat(place.directory, place.name, asked.mode & 01777) ? errno : 0;
    bool there = error == EEXIST && (asked.flags & EXIST_OK);
    if (!error || there) {
        reply.flags |= there ? REPLACED : 0;
        int found = fstatat(place.directory, place.name, &s, (asked.flags & BENEATH) ? AT_SYMLINK_NOFOLLOW : 0) ? errno : 0;
        error = found ? found : S_ISDIR(s.st_mode) ? 0 : ENOTDIR;
    }
    if (!error)
        put_entry(&s, "", "", 0);
    place_leave(&place);
    return error;
}

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

/* Makes room for a link: whatever is there goes, but for a directory. */
static int clear(const struct place *place)
{
    return unlinkat(place->directory, place->name, 0) && errno != ENOENT ? errno : 0;
}

int do_symlink(void)
{
    struct place place;
    struct timespec times[2] = {asked.mtime, asked.mtime};
    int error = place_find(asked.path, &place);
    if (error)
        return error;
    error = clear(&place);
    if (!error && symlinkat(asked.other, place.directory, place.name))
        error = errno;
    if (!error && (asked.flags & MTIME))
        utimensat(place.directory, place.name, times, AT_SYMLINK_NOFOLLOW);
    place_leave(&place);
    return error;
}

int do_link(void)
{
    struct place place, source;
    struct stat s, there;
    if (!(asked.flags & BENEATH))
        return EINVAL;
    int error = place_find(asked.other, &source);
    if (error)
        return error;
    error = place_find(asked.path, &place);
    if (error) {
        place_leave(&source);
        return error;
    }
    error = fstatat(source.directory, source.name, &s, AT_SYMLINK_NOFOLLOW) ? errno : 0;
    bool same = !error && fstatat(place.directory, place.name, &there, AT_SYMLINK_NOFOLLOW) == 0
        && there.st_dev == s.st_dev && there.st_ino == s.st_ino;
    if (!error && !same && !(error = clear(&place)))
        error = linkat(source.directory, source.name, place.directory, place.name, 0) ? errno : 0;
    place_leave(&source);
    place_leave(&place);
    return error;
}

/* Of a directory, once all that belongs into it is there. */
int do_set(void)
{
    struct place place;
    int error = place_find(asked.path, &place);
    if (error)
        return error;
    int fd = openat(place.directory, place.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    error = fd < 0 ? errno : set_attributes(fd, asked.mode);
    if (fd >= 0)
        close(fd);
    place_leave(&place);
    return error;
}
