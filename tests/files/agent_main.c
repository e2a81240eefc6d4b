/* The file agent as a process of its own: `file-agent SOCKET [ROOT [UID]]`. */
#include "../../server/init/init.h"

#include <grp.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc < 2 || (argc > 2 && (chroot(argv[2]) || chdir("/"))))
        return 3;
    if (argc > 3) {
        gid_t gid = (gid_t)atoi(argv[3]);
        if (setgroups(1, &gid) || setgid(gid) || setuid((uid_t)gid))
            return 4;
    }
    files_serve(atoi(argv[1]));
}
