/* Owns the two steps of reading and writing JSON that must be inlined where they are used: with a literal, comparing and
   copying become a few moves of known length, and nothing is counted. */
#ifndef SHIKAKU_INLINED
#define SHIKAKU_INLINED
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define INLINED static inline __attribute__((always_inline))
#else
#define INLINED static inline
#endif

typedef struct {
    const uint8_t *at;
    ptrdiff_t length;
} shikaku_span;

/* Where to write next; `failed` once something did not fit, or is not for us to write. */
typedef struct {
    uint8_t *at;
    uint8_t *end;
    int failed;
} shikaku_writer;

INLINED int inlined_is_text(const shikaku_span *value, const char *wanted, ptrdiff_t length) {
    return value->length == length && memcmp(value->at, wanted, (size_t)length) == 0;
}

INLINED void inlined_put(shikaku_writer *writer, const void *source, ptrdiff_t size) {
    if (writer->end - writer->at < size) {
        writer->failed = 1;
        return;
    }
    memcpy(writer->at, source, (size_t)size);
    writer->at += size;
}

INLINED void inlined_put_literal(shikaku_writer *writer, const char *text) {
    inlined_put(writer, text, (ptrdiff_t)strlen(text));
}
#endif
