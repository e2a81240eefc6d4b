/* Looking at files and opening them to be read. */
#include "files.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#define COPIED_MAX (16 << 20) /* bytes of a file whose size is not known beforehand */

/* `spare`: bytes that must be left for others. */
static void put_found(int directory, const char *path, const struct stat *s, const char *name, size_t spare)
{
    char target[PATH_MAX] = "";
    uint32_t flags = 0;
    if (S_ISLNK(s->st_mode)) {
        ssize_t length = readlinkat(directory, path, target, sizeof target - 1);
        target[length < 0 ? 0 : length] = 0;
        if (!fits(spare + ENTRY_SIZE + 8 + strlen(name) + strlen(target))) {
            target[0] = 0;
            flags = TARGET_LEFT_OUT;
        }
    }
    put_entry(s, name, target, flags);
}

static int stat_place(const struct place *place, struct stat *s)
{
    return fstatat(place->directory, place->name, s, place_follows() ? 0 : AT_SYMLINK_NOFOLLOW) ? errno : 0;
}

int do_stat(void)
{
    struct place place;
    struct stat s;
    int error = place_find(asked.path, &place);
    if (error)
        return error;
    error = stat_place(&place, &s);
    if (!error)
        put_found(place.directory, place.name, &s, "", 0);
    place_leave(&place);
    return error;
}

/* What the kernel makes up says no size, or a wrong one; and what it says may depend on who reads. */
static bool made_up(int fd)
{
    struct statfs f;
    if (fstatfs(fd, &f))
        return false;
    switch ((uint32_t)f.f_type) {
    case 0x9fa0: case 0x62656572: case 0x27e0eb: case 0x63677270: /* proc, sysfs, cgroup, cgroup2 */
    case 0x64626720: case 0x74726163: case 0x73636673: case 0xcafe4a11: /* debugfs, tracefs, securityfs, bpf */
        return true;
    default:
        return false;
    }
}

static int copy_made_up(int *fd)
{
    static char piece[65536];
    int memory = memfd_create("file", MFD_CLOEXEC), error = memory < 0 ? errno : 0;
    ssize_t size;
    off_t total = 0;
    while (!error && (size = read(*fd, piece, sizeof piece)) != 0) {
        if (size < 0 && errno == EINTR)
            continue;
        if (size < 0)
            error = errno;
        else if ((total += size) > COPIED_MAX)
            error = EFBIG;
        else if (write(memory, piece, (size_t)size) != size)
            error = errno ? errno : ENOSPC;
    }
    close(*fd);
    *fd = memory;
    if (error && memory >= 0)
        close(memory);
    return error;
}

static int open_regular(const struct place *place)
{
    struct stat s;
    int error = stat_place(place, &s); /* before it is opened: that alone can change a device or a FIFO */
    if (error || (error = refused(s.st_mode)))
        return error;
    int fd = openat(place->directory, place->name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | (place_follows() ? 0 : O_NOFOLLOW));
    if (fd < 0)
        return errno;
    if (fstat(fd, &s) || (error = refused(s.st_mode))) {
        close(fd);
        return error ? error : errno;
    }
    if (s.st_size == 0 || made_up(fd)) {
        reply.flags |= MADE_UP;
        if ((error = copy_made_up(&fd)))
            return error;
    }
    reply.fd = fd;
    put_entry(&s, "", "", 0);
    return 0;
}

int do_open(void)
{
    struct place place;
    int error = place_find(asked.path, &place);
    if (error)
        return error;
    error = open_regular(&place);
    place_leave(&place);
    return error;
}

int do_directory(void)
{
    struct place place;
    struct stat s;
    struct handle *taken;
    int error = place_find(asked.path, &place);
    if (error)
        return error;
    int how = O_DIRECTORY | O_CLOEXEC | (place_follows() ? 0 : O_NOFOLLOW);
    int fd = openat(place.directory, place.name, O_RDONLY | O_NONBLOCK | how);
    if (fd < 0 && errno == EACCES) /* may be entered, not listed */
        fd = openat(place.directory, place.name, O_PATH | how);
    error = fd < 0 || fstat(fd, &s) ? errno : 0;
    place_leave(&place);
    if (error) {
        if (fd >= 0)
            close(fd);
        return error;
    }
    put_entry(&s, "", "", 0);
    reply.flags |= made_up(fd) ? MADE_UP : 0;
    return new_handle(fd, &taken);
}

int do_next(void)
{
    struct handle *h = handle_of(asked.handle);
    if (!h)
        return EBADF;
    long size = syscall(SYS_getdents64, h->directory, listed, sizeof listed), at = 0;
    if (size < 0)
        return errno == EBADF ? EACCES : errno;
    reply.flags |= size ? MORE : 0;
    size_t left = 0; /* what the entries yet to come need */
    for (struct linux_dirent64 *d; (d = next_entry(&at, size));)
        left += ENTRY_SIZE + 8 + strlen(d->d_name);
    at = 0;
    for (struct linux_dirent64 *d; (d = next_entry(&at, size));) {
        struct stat s;
        left -= ENTRY_SIZE + 8 + strlen(d->d_name);
        if (fstatat(h->directory, d->d_name, &s, AT_SYMLINK_NOFOLLOW) == 0) /* else it went meanwhile */
            put_found(h->directory, d->d_name, &s, d->d_name, left);
    }
    return 0;
}

