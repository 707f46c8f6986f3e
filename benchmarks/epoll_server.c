/* The upper-case service in C over epoll(7): one loop a process; what such a loop costs at the least.
 *
 *     epoll_server [PROCESSES]
 *
 * Several processes share one listener and, as Pronghorn's workers, accept each for itself. What the kernel does not
 * take at once is kept until it does; then nothing more is read of that connection. */

#include "serving.h"

#include <sys/epoll.h>
#include <sys/prctl.h>
#include <signal.h>

enum { EVENTS = 512 };

struct connection {
    int descriptor;
    size_t left;    /* bytes that wait for room */
    char *waiting;  /* where they are; NULL without any */
};

static char buffer[BUFFER];

static void watch(int poller, int operation, struct connection *connection, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = connection};
    if (epoll_ctl(poller, operation, connection->descriptor, &event) < 0)
        fail("epoll_ctl");
}

static void end(struct connection *connection) {
    close(connection->descriptor); /* which takes it out of the poller */
    free(connection->waiting);
    free(connection);
}

static void accept_one(int poller, int listener) {
    int descriptor = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (descriptor < 0)
        return; /* another process was first, or the client has left */
    struct connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL)
        fail("calloc");
    connection->descriptor = descriptor;
    watch(poller, EPOLL_CTL_ADD, connection, EPOLLIN);
}

/* Keep what was not sent, and wait for room in place of more to read. */
static void keep(int poller, struct connection *connection, const char *bytes, size_t count) {
    char *copy = malloc(count);
    if (copy == NULL)
        fail("malloc");
    memcpy(copy, bytes, count);
    free(connection->waiting);
    connection->waiting = copy;
    connection->left = count;
    watch(poller, EPOLL_CTL_MOD, connection, EPOLLOUT);
}

static void answer(int poller, struct connection *connection) {
    ssize_t count = recv(connection->descriptor, buffer, sizeof buffer, 0);
    if (count < 0 && errno == EAGAIN)
        return;
    if (count <= 0) {
        end(connection);
        return;
    }
    upper(buffer, (size_t)count);
    ssize_t sent = send(connection->descriptor, buffer, (size_t)count, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        end(connection);
    else if (sent < count)
        keep(poller, connection, buffer + (sent < 0 ? 0 : sent), (size_t)(count - (sent < 0 ? 0 : sent)));
}

static void go_on(int poller, struct connection *connection) {
    ssize_t sent = send(connection->descriptor, connection->waiting, connection->left, MSG_NOSIGNAL);
    if (sent < 0 && errno == EAGAIN)
        return;
    if (sent < 0) {
        end(connection);
    } else if ((size_t)sent < connection->left) {
        keep(poller, connection, connection->waiting + sent, connection->left - (size_t)sent);
    } else {
        free(connection->waiting);
        connection->waiting = NULL;
        connection->left = 0;
        watch(poller, EPOLL_CTL_MOD, connection, EPOLLIN);
    }
}

static void serve(int listener) {
    struct epoll_event events[EVENTS];
    struct connection acceptor = {.descriptor = listener};
    int poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        fail("epoll_create1");
    watch(poller, EPOLL_CTL_ADD, &acceptor, EPOLLIN);
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS, -1);
        if (count < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < count; i++) {
            struct connection *connection = events[i].data.ptr;
            if (connection == &acceptor)
                accept_one(poller, listener);
            else if (connection->left)
                go_on(poller, connection);
            else
                answer(poller, connection);
        }
    }
}

int main(int count, char **words) {
    int processes = count > 1 ? atoi(words[1]) : 1;
    int listener = listening();
    for (int i = 1; i < processes; i++) {
        pid_t child = fork();
        if (child < 0)
            fail("fork");
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            break;
        }
    }
    serve(listener);
}
