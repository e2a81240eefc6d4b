/* Writing files whole or not at all; making directories. */
#include "files.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define IN_PLACE_MAX (64 << 20)

static int make_unnamed(struct handle *h)
{
    char link[40];
    int fd = openat(h->directory, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    if (fd < 0)
        return -1;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (access(link, F_OK) == 0) /* it gets its name by that */
        return fd;
    close(fd);
    return -1;
}

/* A file to be written, beside the one to be. */
static int create(struct handle **taken)
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
    h->file = make_unnamed(h);
    h->unnamed = h->file >= 0;
    if (!h->unnamed)
        h->file = openat(h->directory, h->temporary, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC, 0600);
    if (h->file < 0) {
        error = errno;
        close_handle(h);
        return error;
    }
    *taken = h;
    return 0;
}

int do_create(void)
{
    struct handle *h;
    int error = create(&h);
    if (error)
        return error;
    reply.fd = h->file;
    reply.keep_fd = true;
    reply.flags |= (h->replaces ? REPLACED : 0) | (h->unnamed ? UNNAMED : 0);
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

/* The file under its temporary name; or under its own at once, where nothing has that. */
static int give_name(struct handle *h, bool *done)
{
    char link[40];
    *done = false;
    if (!h->unnamed)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", h->file);
    *done = !h->replaces && linkat(AT_FDCWD, link, h->directory, h->name, AT_SYMLINK_FOLLOW) == 0;
    if (!*done && !h->replaces && errno != EEXIST)
        return errno;
    if (!*done && linkat(AT_FDCWD, link, h->directory, h->temporary, AT_SYMLINK_FOLLOW))
        return errno;
    h->unnamed = *done; /* else close_handle has a name to remove */
    return 0;
}

static int commit(struct handle *h)
{
    struct stat s;
    bool done = false;
    int error = set_attributes(h->file, (asked.flags & KEEP_MODE) && h->replaces ? h->replaced_mode : asked.mode);
    if (!error)
        error = give_name(h, &done);
    if (!error && !done && renameat(h->directory, h->temporary, h->directory, h->name))
        error = errno == EBUSY ? write_in_place(h) : errno;
    if (!error)
        error = fstatat(h->directory, h->name, &s, AT_SYMLINK_NOFOLLOW) ? errno : 0;
    if (!error)
        put_entry(&s, "", "", 0);
    reply.flags |= h->replaces ? REPLACED : 0;
    close_handle(h);
    return error;
}

int do_commit(void)
{
    struct handle *h = handle_of(asked.handle);
    return h && h->file >= 0 ? commit(h) : EBADF;
}

/* All of a small file at once. */
int do_write(void)
{
    struct handle *h;
    int error = create(&h);
    if (error)
        return error;
    reply.handle = 0;
    for (size_t at = 0; !error && at < asked.content_size;) {
        ssize_t size = write(h->file, asked.content + at, asked.content_size - at);
        error = size > 0 ? 0 : size < 0 ? errno : ENOSPC;
        at += error ? 0 : (size_t)size;
    }
    if (!error)
        return commit(h);
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
