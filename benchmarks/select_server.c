/* The upper-case service in C over select(2): the sets are made anew and walked through at every turn.
 *
 *     select_server
 *
 * A descriptor of FD_SETSIZE (1024) or above does not fit into a set: such a connection is closed at once. What the
 * kernel does not take at once is waited for, as the simplest of servers do. */

#include "serving.h"

#include <fcntl.h>
#include <sys/select.h>

static char buffer[BUFFER];

static int answered(int descriptor) {
    ssize_t count = recv(descriptor, buffer, sizeof buffer, 0);
    if (count <= 0)
        return 0;
    upper(buffer, (size_t)count);
    for (ssize_t done = 0; done < count;) {
        ssize_t sent = send(descriptor, buffer + done, (size_t)(count - done), MSG_NOSIGNAL);
        if (sent < 0)
            return 0;
        done += sent;
    }
    return 1;
}

int main(void) {
    int listener = listening(), most = listener;
    fd_set open_ones, ready;

    FD_ZERO(&open_ones);
    FD_SET(listener, &open_ones);
    for (;;) {
        ready = open_ones;
        if (select(most + 1, &ready, NULL, NULL, NULL) < 0 && errno != EINTR)
            fail("select");
        if (FD_ISSET(listener, &ready)) {
            int descriptor = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
            if (descriptor >= FD_SETSIZE) {
                close(descriptor);
            } else if (descriptor >= 0) {
                FD_SET(descriptor, &open_ones);
                most = descriptor > most ? descriptor : most;
            }
        }
        for (int descriptor = 0; descriptor <= most; descriptor++)
            if (descriptor != listener && FD_ISSET(descriptor, &ready) && !answered(descriptor)) {
                close(descriptor);
                FD_CLR(descriptor, &open_ones);
            }
    }
}
