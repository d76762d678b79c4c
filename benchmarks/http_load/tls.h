/* Owns how a load speaks TLS 1.3, or nothing of the kind: a connection is a descriptor, and a session if it is secured.

   Built without WITH_TLS there are no sessions, and asking for one ends the program. */

#ifndef HTTP_LOAD_TLS
#define HTTP_LOAD_TLS
#include "samples.h"
#include <fcntl.h>
#ifdef WITH_TLS
#include <openssl/ssl.h>

static SSL_CTX *context;

/* Sessions of TLS 1.3; with the client's certificate, if one is given. The server's is not looked at. */
static inline void prepare_tls(const char *certificate, const char *key) {
    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    if (certificate && (SSL_CTX_use_certificate_chain_file(context, certificate) != 1
                        || SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1))
        fail("the client's certificate is not usable");
}

/* A session on a connection that waits; the handshake is done on return. */
static inline void *secured(int fd) {
    SSL *session = SSL_new(context);
    SSL_set_fd(session, fd);
    if (SSL_connect(session) != 1) fail("the TLS handshake failed");
    if (SSL_version(session) != TLS1_3_VERSION) fail("TLS 1.3 was not agreed");
    return session;
}
#else
static inline void prepare_tls(const char *certificate, const char *key) {
    (void)certificate, (void)key;
    fail("built without TLS");
}

static inline void *secured(int fd) {
    (void)fd;
    return NULL;
}
#endif

/* As send: how much was taken. */
static inline ssize_t put(int fd, void *tls, const char *data, size_t size) {
#ifdef WITH_TLS
    if (tls) return SSL_write(tls, data, (int)size);
#endif
    (void)tls;
    return send(fd, data, size, MSG_NOSIGNAL);
}

/* What has come; 0 if that was none of the peer's data. A closed connection ends the program. */
static inline size_t get(int fd, void *tls, char *data, size_t size) {
    ssize_t got;
#ifdef WITH_TLS
    if (tls) {
        got = SSL_read(tls, data, (int)size);
        if (got <= 0 && SSL_get_error(tls, (int)got) == SSL_ERROR_WANT_READ) return 0;
    } else
#endif
        got = recv(fd, data, size, 0);
    if (got <= 0) fail("the server closed a connection");
    (void)tls;
    return (size_t)got;
}

/* Whether some of what has come is held back in the session, where epoll does not see it. */
static inline int has_more(void *tls) {
#ifdef WITH_TLS
    return tls && SSL_pending(tls);
#else
    (void)tls;
    return 0;
#endif
}

static inline void stop_waiting(int fd) {
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK)) fail("a connection cannot be kept from waiting");
}
#endif
