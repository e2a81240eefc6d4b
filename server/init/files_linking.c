/* Making symlinks and links. */
#include "files.h"

#include <fcntl.h>
#include <unistd.h>

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
