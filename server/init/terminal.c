/* Terminals: made in the sandbox's own devpts, so that its programs find theirs by name. */
#include "link.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif
#define CONTROL(letter) ((letter) & 0x1f)

/* As a new one has them, and some know by heart. */
static void set_modes(int terminal, bool echo)
{
    struct termios modes;
    if (tcgetattr(terminal, &modes))
        return;
    modes.c_iflag = ICRNL | IXON | IUTF8;
    modes.c_oflag = OPOST | ONLCR;
    modes.c_lflag = ISIG | ICANON | IEXTEN | (echo ? ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE : 0);
    modes.c_cc[VINTR] = CONTROL('C');
    modes.c_cc[VQUIT] = CONTROL('\\');
    modes.c_cc[VERASE] = 127;
    modes.c_cc[VKILL] = CONTROL('U');
    modes.c_cc[VEOF] = CONTROL('D');
    modes.c_cc[VSUSP] = CONTROL('Z');
    modes.c_cc[VMIN] = 1;
    modes.c_cc[VTIME] = 0;
    tcsetattr(terminal, TCSANOW, &modes);
}

/* The devpts itself is mounted by the engine and nothing of the sandbox's can stand in its place, unlike /dev/ptmx. */
static int open_master(void)
{
    int fd = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    return fd < 0 && geteuid() != 0 ? open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC) : fd;
}

int terminal_make(const struct request *request, int *master, int *terminal)
{
    int unlocked = 0, side = open_master();
    if (side < 0)
        return errno;
    int other = ioctl(side, TIOCSPTLCK, &unlocked) ? -1 : ioctl(side, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (other < 0) {
        int error = errno;
        close(side);
        return error;
    }
    struct winsize size = {.ws_row = (unsigned short)request->rows, .ws_col = (unsigned short)request->columns};
    ioctl(side, TIOCSWINSZ, &size);
    set_modes(other, !(request->flags & RUN_ECHO_OFF));
    *master = side;
    *terminal = other;
    return 0;
}

int terminal_enter(int terminal, uid_t uid)
{
    if ((fchown(terminal, uid, (gid_t)-1) && uid != geteuid()) || ioctl(terminal, TIOCSCTTY, 0))
        return errno;
    return 0;
}

void terminal_renew(int terminal, bool echo)
{
    set_modes(terminal, echo);
    tcflush(terminal, TCIFLUSH);
}
