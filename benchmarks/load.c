/* The load client in C: N connections over one epoll set, every reply checked.
 *
 *     load PORT [--connections N] [--size BYTES] [--depth N] [--messages N] [--seconds S] [--per-connection]
 *               [--idle N] [--paced]
 *
 * It is benchmarks/load.py in C, with the same words and the same line of JSON, plus `cpu`: seconds of CPU of its own
 * for the messages. Each connection keeps `depth` messages in flight: they are sent by one call, and the next ones
 * follow when all replies have come. A wrong reply, a connection that ends early, and ten seconds without any reply
 * end it with a sentence on standard error and status 1. */

#include "serving.h"

#include <getopt.h>
#include <poll.h>
#include <sys/epoll.h>
#include <time.h>

enum { EVENTS = 512, SOURCES = 250, PATIENCE = 10, PAUSE_MS = 50, WHOLE = 1 << 20 };
#define BILLION 1000000000LL
#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

struct client {
    int descriptor;
    int open;        /* connected */
    int busy;        /* replies are due */
    size_t sent, received;
    long long sent_at;
    char *messages, *replies; /* `depth` of them each; the text differs from connection to connection */
};

static struct {
    int port, per_connection, paced;
    long connections, depth, idle;
    long long messages;
    size_t size;
    double seconds;
} options = {.connections = 64, .depth = 1, .messages = 10000000, .size = 64, .seconds = 2.0};

static char *incoming;
static size_t whole; /* bytes of `depth` messages */
static uint32_t *latencies;
static size_t noted, room;
static long long began, ended;
static double cpu_began;

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * BILLION + time.tv_nsec;
}

static double cpu(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void refuse(const char *what) {
    fprintf(stderr, "load: %s\n", what);
    exit(1);
}

static void note(long long nanoseconds) {
    if (noted == room) {
        room = room ? 2 * room : 65536;
        latencies = realloc(latencies, room * sizeof *latencies);
        if (latencies == NULL)
            refuse("no memory");
    }
    latencies[noted++] = nanoseconds > UINT32_MAX ? UINT32_MAX : (uint32_t)nanoseconds;
}

static int by_size(const void *left, const void *right) {
    uint32_t one = *(const uint32_t *)left, other = *(const uint32_t *)right;
    return (one > other) - (one < other);
}

static void tell(void) {
    double spent = cpu() - cpu_began;
    qsort(latencies, noted, sizeof *latencies, by_size);
    printf("{\"messages\": %zu, \"seconds\": %.6f, \"cpu\": %.6f, \"p50\": %.1f, \"p99\": %.1f}\n",
           noted * (size_t)options.depth, (double)(ended - began) / 1e9, spent, noted ? latencies[noted / 2] / 1e3 : 0,
           noted ? latencies[noted * 99 / 100] / 1e3 : 0);
    fflush(stdout);
}

/* Each connection has its own text, so that a reply that went to another one is found out. */
static void prepare(struct client *client, long number) {
    static const char text[] = "the quick brown fox jumps over the lazy dog ";
    char name[32];
    size_t length = (size_t)snprintf(name, sizeof name, "client %ld ", number);

    if (client->messages == NULL)
        client->messages = malloc(whole), client->replies = malloc(whole);
    if (client->messages == NULL || client->replies == NULL)
        refuse("no memory");
    for (size_t at = 0; at < options.size; at++)
        client->messages[at] = at < length ? name[at] : text[(at - length) % (sizeof text - 1)];
    client->messages[options.size - 1] = '\n';
    for (long i = 1; i < options.depth; i++)
        memcpy(client->messages + (size_t)i * options.size, client->messages, options.size);
    memcpy(client->replies, client->messages, whole);
    upper(client->replies, whole);
}

/* Begin to connect; `source` spreads ephemeral ports over the loopback network. */
static void begin_connect(struct client *client, long source) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + (uint32_t)source)};
    int yes = 1;

    address.sin_port = htons((uint16_t)options.port);
    client->open = client->busy = 0;
    client->descriptor = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (client->descriptor < 0)
        fail("load: socket");
    (void)setsockopt(client->descriptor, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    if (bind(client->descriptor, (struct sockaddr *)&own, sizeof own) < 0)
        fail("load: bind");
    if (connect(client->descriptor, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        fail("load: cannot connect");
}

static void check_connected(struct client *client) {
    int code = 0;
    socklen_t length = sizeof code;
    if (getsockopt(client->descriptor, SOL_SOCKET, SO_ERROR, &code, &length) < 0 || code) {
        errno = code ? code : errno;
        fail("load: cannot connect");
    }
    client->open = 1;
}

/* Send what is left of the messages; 0 when a part must wait for room. */
static int go_on(struct client *client) {
    ssize_t count = send(client->descriptor, client->messages + client->sent, whole - client->sent, MSG_NOSIGNAL);
    if (count < 0 && errno != EAGAIN)
        fail("load: send");
    client->sent += count < 0 ? 0 : (size_t)count;
    return client->sent == whole;
}

static int start(struct client *client, long long at) {
    client->sent = client->received = 0;
    client->sent_at = at;
    client->busy = 1;
    return go_on(client);
}

/* Read what is there; 1 when all replies have come, and are right. */
static int finish(struct client *client) {
    ssize_t count = recv(client->descriptor, incoming, WHOLE, 0);
    if (count < 0 && errno == EAGAIN)
        return 0;
    if (count < 0)
        fail("load: recv");
    if (count == 0)
        refuse("the server closed a connection that waited for its reply");
    if ((size_t)count > whole - client->received || memcmp(incoming, client->replies + client->received, (size_t)count))
        refuse("wrong reply");
    client->received += (size_t)count;
    return client->received == whole;
}

static void watch(int poller, int operation, struct client *client, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = client};
    if (epoll_ctl(poller, operation, client->descriptor, &event) < 0)
        fail("load: epoll_ctl");
}

/* Say `word` and wait for a line, or the end, of standard input. */
static void pace(const char *word, double seconds) {
    struct pollfd input = {.fd = 0, .events = POLLIN};
    char line[16];
    if (*word) {
        puts(word);
        fflush(stdout);
    }
    if (poll(&input, 1, (int)(seconds * 1000)) > 0 && read(0, line, sizeof line) < 0)
        fail("load: read");
}

/* One after the other, so that no server's queue is too short for them. */
static struct client *open_all(long count) {
    struct client *clients = calloc((size_t)count, sizeof *clients);
    if (clients == NULL)
        refuse("no memory");
    for (long i = 0; i < count; i++) {
        struct pollfd ready;
        prepare(&clients[i], i);
        begin_connect(&clients[i], i % SOURCES);
        ready = (struct pollfd){.fd = clients[i].descriptor, .events = POLLOUT};
        if (poll(&ready, 1, PATIENCE * 1000) <= 0)
            refuse("a connection did not open");
        check_connected(&clients[i]);
    }
    return clients;
}

static void end(struct client *client) {
    if (client->open)
        close(client->descriptor);
    client->open = 0;
}

static void exchange(struct client *clients, long count, long long messages, double seconds) {
    struct epoll_event events[EVENTS];
    int poller = epoll_create1(EPOLL_CLOEXEC);
    long long stop_at = (began = ended = now()) + (long long)(seconds * 1e9), left = messages - count;
    long owed = count;
    int crowded = 0; /* few are served at a time, and the others wait: who has had all replies makes room */

    cpu_began = cpu();
    for (long i = 0; i < count; i++)
        watch(poller, EPOLL_CTL_ADD, &clients[i], start(&clients[i], now()) ? EPOLLIN : EPOLLIN | EPOLLOUT);
    while (owed) {
        int ready = epoll_wait(poller, events, EVENTS, PAUSE_MS);
        if (ready <= 0) {
            if (now() - ended > PATIENCE * BILLION)
                refuse("no reply within 10 s");
            if (!crowded && !options.idle && (left <= 0 || now() >= stop_at)) {
                crowded = 1;
                for (long i = 0; i < count; i++)
                    if (!clients[i].busy)
                        end(&clients[i]);
            }
        }
        for (int i = 0; i < ready; i++) {
            struct client *client = events[i].data.ptr;
            if (events[i].events & EPOLLOUT && go_on(client))
                watch(poller, EPOLL_CTL_MOD, client, EPOLLIN);
            if (!(events[i].events & ~(uint32_t)EPOLLOUT) || !finish(client))
                continue;
            ended = now();
            note(ended - client->sent_at);
            if (left > 0 && ended < stop_at) {
                left--;
                if (!start(client, ended))
                    watch(poller, EPOLL_CTL_MOD, client, EPOLLIN | EPOLLOUT);
            } else {
                owed--;
                client->busy = 0;
                if (crowded)
                    end(client);
            }
        }
    }
    close(poller);
}

/* A connection per message: connect, send, read the reply, close; `connections` of them at any time. */
static void visit(void) {
    struct epoll_event events[EVENTS];
    int poller = epoll_create1(EPOLL_CLOEXEC);
    struct client *clients = calloc((size_t)options.connections, sizeof *clients);
    long long number = 0, stop_at = (began = ended = now()) + (long long)(options.seconds * 1e9);
    long under_way = 0;

    if (clients == NULL)
        refuse("no memory");
    cpu_began = cpu();
    for (long i = 0; i < options.connections && number < options.messages; i++, number++, under_way++) {
        prepare(&clients[i], i);
        begin_connect(&clients[i], 1 + number % SOURCES);
        watch(poller, EPOLL_CTL_ADD, &clients[i], EPOLLOUT);
        clients[i].sent_at = now();
    }
    while (under_way) {
        int ready = epoll_wait(poller, events, EVENTS, PATIENCE * 1000);
        if (ready <= 0)
            refuse("no reply within 10 s");
        for (int i = 0; i < ready; i++) {
            struct client *client = events[i].data.ptr;
            if (!(events[i].events & EPOLLIN)) {
                if (!client->open)
                    check_connected(client);
                if (client->busy ? go_on(client) : start(client, client->sent_at))
                    watch(poller, EPOLL_CTL_MOD, client, EPOLLIN);
            } else if (finish(client)) {
                ended = now();
                note(ended - client->sent_at);
                close(client->descriptor);
                under_way--;
                if (number < options.messages && ended < stop_at) {
                    begin_connect(client, 1 + number++ % SOURCES);
                    watch(poller, EPOLL_CTL_ADD, client, EPOLLOUT);
                    client->sent_at = ended;
                    under_way++;
                }
            }
        }
    }
}

static void parse(int count, char **words) {
    static const struct option known[] = {
        {"connections", 1, NULL, 'c'}, {"size", 1, NULL, 's'},    {"depth", 1, NULL, 'd'},
        {"messages", 1, NULL, 'm'},    {"seconds", 1, NULL, 't'}, {"per-connection", 0, NULL, 'v'},
        {"idle", 1, NULL, 'i'},        {"paced", 0, NULL, 'p'},   {NULL, 0, NULL, 0}};
    for (int each; (each = getopt_long(count, words, "", known, NULL)) >= 0;)
        switch (each) {
        case 'c': options.connections = atol(optarg); break;
        case 's': options.size = (size_t)atol(optarg); break;
        case 'd': options.depth = atol(optarg); break;
        case 'm': options.messages = atoll(optarg); break;
        case 't': options.seconds = atof(optarg); break;
        case 'v': options.per_connection = 1; break;
        case 'i': options.idle = atol(optarg); break;
        case 'p': options.paced = 1; break;
        default: exit(2);
        }
    if (optind != count - 1 || (options.port = atoi(words[optind])) < 1)
        refuse("usage: load PORT [--connections N] [--size BYTES] [--depth N] [--messages N] [--seconds S] "
               "[--per-connection] [--idle N] [--paced]");
    whole = options.size * (size_t)options.depth;
    if (options.connections < 1 || options.depth < 1 || options.messages < 1 || options.idle < 0 || whole < 1 ||
        whole > WHOLE)
        refuse("connections, size, depth and messages are at least 1, size times depth at most 1 MiB");
}

int main(int count, char **words) {
    parse(count, words);
    raise_descriptors();
    incoming = malloc(WHOLE);
    if (incoming == NULL)
        refuse("no memory");
    if (options.per_connection) {
        visit();
        tell();
    } else if (options.idle) { /* one message each: the server has then accepted all of them */
        exchange(open_all(options.idle), options.idle, options.idle, PATIENCE);
        tell();
        pace("", options.seconds);
    } else {
        long opened = options.connections < options.messages ? options.connections : (long)options.messages;
        struct client *clients = open_all(opened);
        if (options.paced)
            pace("open", 600);
        exchange(clients, opened, options.messages / options.depth, options.seconds);
        tell();
        if (options.paced)
            pace("", 600);
    }
    return 0;
}
