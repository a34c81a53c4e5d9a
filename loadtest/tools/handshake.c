/* TLS 1.3 handshakes, as fast as the other side makes them: handshake PORT full|resumed SECONDS CONCURRENCY
 *
 * Each connection: TCP connect, handshake, close_notify, and then wait until the server has closed too. No request, so
 * that the figure is that of the handshake. `resumed` first makes one whole connection with a request, to be given
 * tickets, and uses the last of them for all others; a handshake that was not resumed counts as an error, and so does
 * one of `full` that was. One thread for each of CONCURRENCY connections. The last line is JSON. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES_MAX (1 << 20)
#define THREADS_MAX 64

struct worker {
    pthread_t thread;
    long done, failed, unexpected;
    unsigned *samples;
    long count;
};

static struct sockaddr_in address;
static SSL_CTX *context;
static SSL_SESSION *ticket;
static int resumed;
static double end_s;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int keep_ticket(SSL *ssl, SSL_SESSION *session) {
    (void)ssl;
    SSL_SESSION *before = ticket;
    ticket = session;
    if (before) SSL_SESSION_free(before);
    return 1;
}

static int dial(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval patience = {.tv_sec = 5};
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
    close(fd);
    return -1;
}

static SSL *shake(int fd, SSL_SESSION *session) {
    SSL *ssl = SSL_new(context);
    SSL_set_fd(ssl, fd);
    SSL_set_tlsext_host_name(ssl, "bench.test");
    if (session) {
        SSL_SESSION *copy = SSL_SESSION_dup(session); /* threads share the original */
        SSL_set_session(ssl, copy);
        SSL_SESSION_free(copy);
    }
    if (SSL_connect(ssl) == 1) return ssl;
    SSL_free(ssl);
    return NULL;
}

/* Ends the TLS session, tells so, and waits for the other side's end. */
static void finish(SSL *ssl, int fd) {
    char bytes[4096];
    SSL_shutdown(ssl);
    shutdown(fd, SHUT_WR);
    while (recv(fd, bytes, sizeof bytes, 0) > 0) {}
}

static int fetch_ticket(void) {
    static const char request[] = "GET /1k HTTP/1.1\r\nHost: bench.test\r\nConnection: close\r\n\r\n";
    char bytes[4096];
    int fd = dial();
    SSL *ssl = fd < 0 ? NULL : shake(fd, NULL);
    if (!ssl) return 0;
    SSL_write(ssl, request, sizeof request - 1);
    while (SSL_read(ssl, bytes, sizeof bytes) > 0) {}
    finish(ssl, fd);
    SSL_free(ssl);
    close(fd);
    return ticket != NULL;
}

static void once(struct worker *self) {
    double begun_s = now_s();
    int fd = dial();
    SSL *ssl = fd < 0 ? NULL : shake(fd, resumed ? ticket : NULL);
    if (!ssl) {
        self->failed++;
        if (fd >= 0) close(fd);
        return;
    }
    double taken_s = now_s() - begun_s;
    if (SSL_session_reused(ssl) != resumed) self->unexpected++;
    finish(ssl, fd);
    SSL_free(ssl);
    close(fd);
    self->done++;
    if (self->count < SAMPLES_MAX) self->samples[self->count++] = (unsigned)(taken_s * 1e6);
}

static void *work(void *argument) {
    struct worker *self = argument;
    while (now_s() < end_s) once(self);
    return NULL;
}

static int by_size(const void *a, const void *b) {
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    static struct worker workers[THREADS_MAX];
    if (argc != 5) {
        fprintf(stderr, "usage: handshake PORT full|resumed SECONDS CONCURRENCY\n");
        return 2;
    }
    int threads = atoi(argv[4]);
    if (threads < 1 || threads > THREADS_MAX) return 2;
    resumed = strcmp(argv[2], "resumed") == 0;
    address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1]))};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    if (resumed) {
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(context, keep_ticket);
        if (!fetch_ticket()) {
            fprintf(stderr, "the server gave no ticket\n");
            return 1;
        }
        /* With its cache on, OpenSSL spoils a ticket that was used once. */
        SSL_CTX_sess_set_new_cb(context, NULL);
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    }
    double begun_s = now_s();
    end_s = begun_s + atof(argv[3]);
    for (int at = 0; at < threads; at++) {
        workers[at].samples = malloc(SAMPLES_MAX * sizeof(unsigned));
        if (!workers[at].samples || pthread_create(&workers[at].thread, NULL, work, &workers[at])) return 1;
    }
    long done = 0, failed = 0, unexpected = 0, count = 0;
    for (int at = 0; at < threads; at++) {
        pthread_join(workers[at].thread, NULL);
        done += workers[at].done;
        failed += workers[at].failed;
        unexpected += workers[at].unexpected;
        count += workers[at].count;
    }
    double wall_s = now_s() - begun_s;
    unsigned *all = malloc((size_t)(count + 1) * sizeof(unsigned));
    long filled = 0;
    for (int at = 0; at < threads; at++) {
        memcpy(all + filled, workers[at].samples, (size_t)workers[at].count * sizeof(unsigned));
        filled += workers[at].count;
    }
    all[count] = 0;
    qsort(all, (size_t)count, sizeof(unsigned), by_size);
    printf("{\"requests\": %ld, \"duration_us\": %.0f, \"p50_us\": %u, \"p99_us\": %u, \"errors_handshake\": %ld, "
           "\"errors_%s\": %ld}\n",
           done, wall_s * 1e6, all[count / 2], all[count * 99 / 100], failed,
           resumed ? "not_resumed" : "resumed", unexpected);
    return 0;
}
