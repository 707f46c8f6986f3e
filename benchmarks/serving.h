/* What the C servers and the C load client share: a listener, descriptors, upper case, and errors that end the process. */

#ifndef SERVING_H
#define SERVING_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 4096, BUFFER = 65536, LIFETIME = 3600 };

static inline void fail(const char *what) {
    perror(what);
    exit(1);
}

/* The soft limit of descriptors becomes the hard one. */
static inline void raise_descriptors(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* A listener on a free port of 127.0.0.1, told on standard error; SIGALRM ends the process after LIFETIME seconds. */
static inline int listening(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    raise_descriptors();
    alarm(LIFETIME);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, BACKLOG) < 0)
        fail("cannot listen");
    if (getsockname(listener, (struct sockaddr *)&address, &length) < 0)
        fail("getsockname");
    fprintf(stderr, "Listening at: tcp://127.0.0.1:%d\n", ntohs(address.sin_port));
    return listener;
}

static inline void upper(char *bytes, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (bytes[i] >= 'a' && bytes[i] <= 'z')
            bytes[i] = (char)(bytes[i] - 'a' + 'A');
}

#endif
