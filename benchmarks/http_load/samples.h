/* Owns what both loads share: the file of what is asked and what must come back, a connection, and the comparison.

   The file holds u32 count; then for each u32 request bytes, u32 body bytes, the request, the body (little-endian). The
   first wrong answer ends the program with a message and code 1. */

#ifndef HTTP_LOAD_SAMPLES
#define HTTP_LOAD_SAMPLES
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct sample { char *request, *body; uint32_t request_bytes, body_bytes; };

static struct sample *samples;
static unsigned sample_count;

static void fail(const char *what) {
    fprintf(stderr, "%s: %s\n", program_invocation_short_name, what);
    exit(1);
}

static void read_samples(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file || fread(&sample_count, 4, 1, file) != 1 || sample_count == 0) fail("the file of requests is not readable");
    samples = calloc(sample_count, sizeof *samples);
    for (unsigned n = 0; n < sample_count; n++) {
        struct sample *one = &samples[n];
        if (fread(&one->request_bytes, 4, 1, file) != 1 || fread(&one->body_bytes, 4, 1, file) != 1) fail("file too short");
        one->request = malloc(one->request_bytes);
        one->body = malloc(one->body_bytes + 1);
        if (fread(one->request, 1, one->request_bytes, file) != one->request_bytes) fail("file too short");
        if (fread(one->body, 1, one->body_bytes, file) != one->body_bytes) fail("file too short");
    }
    fclose(file);
}

/* A connection to the loopback. */
static inline int connected(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int yes = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) fail("cannot connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return fd;
}

/* The length of the first whole answer in the buffer, after comparing it; 0 if it is not whole yet. */
static size_t check(const char *data, size_t size, const struct sample *wanted) {
    const char *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end) return 0;
    if (size < 12 || memcmp(data, "HTTP/1.1 200", 12)) fail("an answer's status is not 200");
    long length = -1;
    for (const char *line = memmem(data, size, "\r\n", 2); line < end; line = memmem(line + 2, end + 2 - line, "\r\n", 2))
        if (!strncasecmp(line + 2, "content-length:", 15)) length = atol(line + 17);
    if (length != (long)wanted->body_bytes) fail("an answer's length is not the expected one");
    size_t head = (size_t)(end + 4 - data);
    if (size - head < wanted->body_bytes) return 0;
    if (memcmp(end + 4, wanted->body, wanted->body_bytes)) fail("an answer is not the expected one");
    return head + wanted->body_bytes;
}
#endif
