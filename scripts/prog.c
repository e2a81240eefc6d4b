/* The one program of remote-env/scratch:latest, an image with nothing else in it: no shell, no libc, no /etc.
   Prints its arguments, one a line; `exit=N` ends it with status N, `env=NAME` prints a variable. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "exit=", 5) == 0)
            return atoi(argv[i] + 5);
        if (strncmp(argv[i], "env=", 4) == 0) {
            const char *value = getenv(argv[i] + 4);
            puts(value ? value : "(not set)");
        } else {
            puts(argv[i]);
        }
    }
    return 0;
}
