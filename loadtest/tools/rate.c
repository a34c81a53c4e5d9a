/* Constant-rate HTTP/1.1 load generator without coordinated omission.
 *
 * Request i is due at start + i / rate, whether or not earlier answers have come back. A due request takes any free
 * connection; when none is free it waits, and its latency still counts from the time it was due. A gateway that
 * stalls for 100 ms therefore shows 100 ms in all requests that fell due meanwhile, not in one.
 *
 *   rate PORT CONNECTIONS RATE_PER_SECOND SECONDS PATHS_FILE
 *
 * PATHS_FILE holds one request path per line; a seeded generator picks among them. One JSON object goes to stdout;
 * times are in microseconds. Answers must carry Content-Length. Requests due in the first WARMUP_S are not counted.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_BYTES_MAX = 16384, READ_BYTES = 65536, EVENTS_MAX = 256, REQUEST_BYTES_MAX = 1024 };
static const double WARMUP_S = 0.5;  /* connections open and pools fill */
static const double DRAIN_S = 2.0;   /* how long late answers are waited for; the rest count as unanswered */

struct conn {
    int fd;
    int busy;
    int in_head;
    int head_bytes;
    int status;
    int closes;
    int64_t body_left;
    uint64_t due_ns;
    int counted;
    char head[HEAD_BYTES_MAX + 1];
};

static struct conn *conns;
static int *idle_stack;
static int idle_count, conn_count, epoll_fd, port;
static char **requests;
static int request_count;
static uint32_t *latencies_us, *lags_us;
static size_t latency_count, lag_count, sample_max;
static uint64_t errors_status, errors_socket, random_state = 0x9E3779B97F4A7C15ull;

static void die(const char *what) {
    fprintf(stderr, "rate: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static uint32_t random_next(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}

static void conn_open(struct conn *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0) die("socket");
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0) die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) < 0) die("epoll_ctl");
    c->busy = 0;
    c->in_head = 1;
    c->head_bytes = 0;
}

static void conn_reopen(struct conn *c) {
    close(c->fd);
    conn_open(c);
}

static void conn_free(struct conn *c) {
    c->busy = 0;
    c->in_head = 1;
    c->head_bytes = 0;
    idle_stack[idle_count++] = (int)(c - conns);
}

static uint32_t since_us(uint64_t from_ns, uint64_t to_ns) {
    uint64_t us = to_ns > from_ns ? (to_ns - from_ns) / 1000 : 0;
    return us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
}

static void send_request(struct conn *c, uint64_t due_ns, int counted, uint64_t now) {
    const char *request = requests[random_next() % (uint32_t)request_count];
    size_t bytes = strlen(request);
    c->busy = 1;
    c->due_ns = due_ns;
    c->counted = counted;
    if (counted && lag_count < sample_max) lags_us[lag_count++] = since_us(due_ns, now);
    if (send(c->fd, request, bytes, MSG_NOSIGNAL) == (ssize_t)bytes) return;
    /* An idle connection that the gateway has closed: once more on a fresh one. */
    conn_reopen(c);
    c->busy = 1;
    if (send(c->fd, request, bytes, MSG_NOSIGNAL) != (ssize_t)bytes) die("send");
}

static void answer_done(struct conn *c) {
    if (c->counted) {
        if (c->status != 200) errors_status++;
        if (latency_count < sample_max) latencies_us[latency_count++] = since_us(c->due_ns, now_ns());
    }
    if (c->closes) conn_reopen(c);
    conn_free(c);
}

/* The connection ended. While a request was on it that is an error; an idle one is just opened again. */
static void conn_lost(struct conn *c) {
    int was_busy = c->busy;
    if (was_busy && c->counted) errors_socket++;
    conn_reopen(c);
    if (was_busy) conn_free(c);
}

static void parse_head(struct conn *c) {
    const char *length = strcasestr(c->head, "\r\ncontent-length:");
    if (sscanf(c->head, "HTTP/1.%*c %d", &c->status) != 1) die("not an HTTP answer");
    if (!length) die("an answer without Content-Length");
    c->body_left = strtoll(length + strlen("\r\ncontent-length:"), NULL, 10);
    c->closes = strcasestr(c->head, "\r\nconnection: close") != NULL;
    c->in_head = 0;
}

/* Takes what belongs to the head from the read bytes and returns how many of them it used. */
static size_t take_head(struct conn *c, const char *bytes, size_t count) {
    size_t room = (size_t)(HEAD_BYTES_MAX - c->head_bytes);
    size_t take = count < room ? count : room;
    int before = c->head_bytes;
    char *end;
    if (room == 0) die("head too large");
    memcpy(c->head + before, bytes, take);
    c->head_bytes += (int)take;
    c->head[c->head_bytes] = 0;
    end = strstr(c->head, "\r\n\r\n");
    if (!end) return take;
    end[2] = 0;
    parse_head(c);
    return (size_t)(end + 4 - c->head) - (size_t)before;
}

static void on_readable(struct conn *c) {
    static char buffer[READ_BYTES];
    ssize_t count = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    size_t used = 0;
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (count <= 0) {
        conn_lost(c);
        return;
    }
    if (!c->busy) { /* for example a 408 before the gateway closes an idle connection */
        conn_reopen(c);
        return;
    }
    if (c->in_head) used = take_head(c, buffer, (size_t)count);
    if (c->in_head) return;
    c->body_left -= count - (ssize_t)used;
    if (c->body_left <= 0) answer_done(c);
}

static int compare_u32(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint32_t quantile(const uint32_t *sorted, size_t count, double q) {
    size_t index = (size_t)(q * (double)count);
    if (count == 0) return 0;
    return sorted[index < count ? index : count - 1];
}

static void load_requests(const char *path) {
    FILE *file = fopen(path, "r");
    char line[REQUEST_BYTES_MAX - 128];
    int room = 0;
    if (!file) die(path);
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\r\n")] = 0;
        if (!line[0]) continue;
        if (request_count == room) {
            room = room ? room * 2 : 64;
            requests = realloc(requests, (size_t)room * sizeof *requests);
            if (!requests) die("realloc");
        }
        if (asprintf(&requests[request_count++], "GET %s HTTP/1.1\r\nHost: bench.test\r\n\r\n", line) < 0)
            die("asprintf");
    }
    fclose(file);
    if (request_count == 0) die("no paths");
}

static void wait_events(uint64_t until_ns) {
    struct epoll_event events[EVENTS_MAX];
    uint64_t now = now_ns(), left = until_ns > now ? until_ns - now : 0;
    struct timespec timeout = {.tv_sec = (time_t)(left / 1000000000ull), .tv_nsec = (long)(left % 1000000000ull)};
    int count = epoll_pwait2(epoll_fd, events, EVENTS_MAX, &timeout, NULL);
    if (count < 0 && errno != EINTR) die("epoll_pwait2");
    for (int i = 0; i < count; i++) on_readable(events[i].data.ptr);
}

static uint64_t run(double rate, double seconds) {
    uint64_t start = now_ns(), sent = 0;
    uint64_t total = (uint64_t)(rate * (WARMUP_S + seconds)), warm = (uint64_t)(rate * WARMUP_S);
    uint64_t give_up = start + (uint64_t)((WARMUP_S + seconds + DRAIN_S) * 1e9);
    double step_ns = 1e9 / rate;
    while (sent < total || idle_count < conn_count) {
        uint64_t now = now_ns(), due = start + (uint64_t)((double)sent * step_ns);
        if (now >= give_up) break;
        while (sent < total && due <= now && idle_count > 0) {
            send_request(&conns[idle_stack[--idle_count]], due, sent >= warm, now);
            sent++;
            due = start + (uint64_t)((double)sent * step_ns);
        }
        wait_events(sent < total && idle_count > 0 ? due : give_up);
    }
    return total - warm;
}

static void report(uint64_t expected, double seconds) {
    uint64_t answered = latency_count;
    qsort(latencies_us, latency_count, sizeof *latencies_us, compare_u32);
    qsort(lags_us, lag_count, sizeof *lags_us, compare_u32);
    printf("{\"requests\": %llu, \"expected\": %llu, \"seconds\": %.3f, ", (unsigned long long)answered,
           (unsigned long long)expected, seconds);
    printf("\"errors_status\": %llu, \"errors_socket\": %llu, \"unanswered\": %llu, ",
           (unsigned long long)errors_status, (unsigned long long)errors_socket,
           (unsigned long long)(expected - answered - errors_socket));
    printf("\"p50_us\": %u, \"p90_us\": %u, \"p99_us\": %u, \"p999_us\": %u, \"max_us\": %u, ",
           quantile(latencies_us, latency_count, 0.50), quantile(latencies_us, latency_count, 0.90),
           quantile(latencies_us, latency_count, 0.99), quantile(latencies_us, latency_count, 0.999),
           quantile(latencies_us, latency_count, 1.0));
    printf("\"lag_p50_us\": %u, \"lag_p99_us\": %u}\n", quantile(lags_us, lag_count, 0.50),
           quantile(lags_us, lag_count, 0.99));
}

int main(int argc, char **argv) {
    double rate, seconds;
    uint64_t expected;
    if (argc != 6) {
        fprintf(stderr, "usage: rate PORT CONNECTIONS RATE_PER_SECOND SECONDS PATHS_FILE\n");
        return 2;
    }
    port = atoi(argv[1]);
    conn_count = atoi(argv[2]);
    rate = atof(argv[3]);
    seconds = atof(argv[4]);
    if (port <= 0 || conn_count <= 0 || rate <= 0 || seconds <= 0) die("bad argument");
    load_requests(argv[5]);
    prctl(PR_SET_TIMERSLACK, 1ul);
    epoll_fd = epoll_create1(0);
    sample_max = (size_t)(rate * seconds) + 16;
    conns = calloc((size_t)conn_count, sizeof *conns);
    idle_stack = calloc((size_t)conn_count, sizeof *idle_stack);
    latencies_us = calloc(sample_max, sizeof *latencies_us);
    lags_us = calloc(sample_max, sizeof *lags_us);
    if (!conns || !idle_stack || !latencies_us || !lags_us) die("calloc");
    for (int i = 0; i < conn_count; i++) {
        conn_open(&conns[i]);
        conn_free(&conns[i]);
    }
    expected = run(rate, seconds);
    report(expected, seconds);
    return 0;
}
