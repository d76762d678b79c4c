# Owns every C struct, offset and size of the shared index segment; the static assertions stop a build that differs
# from docs/FORMATS.md.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from *:
    """
    #ifndef SHIKAKU_LAYOUT
    #define SHIKAKU_LAYOUT
    #include <stddef.h>
    #include <stdint.h>

    #define SHIKAKU_LAYOUT_VERSION 1u
    #define SHIKAKU_FORM_ATOMIC16 1u
    #define SHIKAKU_FORM_VERSIONED 2u
    #define SHIKAKU_STRIPES 1024u
    #define SHIKAKU_SLOTS_PER_LINE 4u

    /* w0: bits 16-63 tag, 0-15 aux; w1: bits 32-63 person, 16-31 lost day, 0-15 gained day. */
    #define SHIKAKU_PROVISIONAL 1ull
    #define SHIKAKU_OVERFLOW 2ull
    #define SHIKAKU_AUX_MASK 0xfffcull
    #define SHIKAKU_TAG_MASK (~0xffffull)

    /* In applied_seq: a change is under way. */
    #define SHIKAKU_UNSETTLED (1ull << 63)

    typedef struct {
        _Alignas(16) uint64_t w0;
        uint64_t w1;
    } shikaku_slot;

    typedef struct {
        _Alignas(64) shikaku_slot slots[SHIKAKU_SLOTS_PER_LINE];
    } shikaku_line;

    typedef struct {
        /* The fixed part, under the checksum. */
        uint8_t magic[8];
        uint32_t layout_version;
        uint32_t form;
        uint64_t lines;
        uint64_t generation;
        uint8_t store_id[16];
        uint8_t key_id[8];
        uint64_t segment_bytes;
        uint8_t reserved[60];
        uint32_t checksum;
        /* Live words that readers look at. */
        uint64_t retired;
        uint64_t visible_seq;
        uint64_t insurers_version;
        uint64_t history;
        uint64_t unused_words[4];
        /* Live words of the writer only, on a cache line of their own. */
        uint64_t count;
        uint64_t provisional_count;
        uint64_t applied_seq;
        uint64_t redo_slot;
        uint64_t redo_w0;
        uint64_t redo_w1;
        uint64_t unused_writer_words[2];
        uint8_t unused[4096 - 256];
        uint64_t versions[SHIKAKU_STRIPES];
    } shikaku_header;

    /* One entry as engine/entries packs it. */
    typedef struct {
        uint64_t lo;
        uint64_t hi;
        uint16_t gained;
        uint16_t lost;
        uint16_t aux;
        uint16_t kind;
    } shikaku_entry;

    /* One match as find_many returns it. */
    typedef struct {
        uint32_t person;
        uint16_t gained;
        uint16_t lost;
        uint16_t aux;
        uint16_t reserved;
    } shikaku_match;

    _Static_assert(sizeof(shikaku_slot) == 16, "a slot has 16 bytes");
    _Static_assert(sizeof(shikaku_line) == 64, "a line is one cache line");
    _Static_assert(sizeof(shikaku_entry) == 24, "an entry has 24 bytes");
    _Static_assert(sizeof(shikaku_match) == 12, "a match has 12 bytes");
    _Static_assert(sizeof(shikaku_header) == 12288, "the header has 4,096 bytes and 1,024 version words");
    _Static_assert(offsetof(shikaku_header, form) == 12, "form");
    _Static_assert(offsetof(shikaku_header, lines) == 16, "lines");
    _Static_assert(offsetof(shikaku_header, generation) == 24, "generation");
    _Static_assert(offsetof(shikaku_header, store_id) == 32, "store_id");
    _Static_assert(offsetof(shikaku_header, key_id) == 48, "key_id");
    _Static_assert(offsetof(shikaku_header, segment_bytes) == 56, "segment_bytes");
    _Static_assert(offsetof(shikaku_header, checksum) == 124, "checksum");
    _Static_assert(offsetof(shikaku_header, retired) == 128, "retired");
    _Static_assert(offsetof(shikaku_header, visible_seq) == 136, "visible_seq");
    _Static_assert(offsetof(shikaku_header, insurers_version) == 144, "insurers_version");
    _Static_assert(offsetof(shikaku_header, count) == 192, "count");
    _Static_assert(offsetof(shikaku_header, provisional_count) == 200, "provisional_count");
    _Static_assert(offsetof(shikaku_header, applied_seq) == 208, "applied_seq");
    _Static_assert(offsetof(shikaku_header, redo_slot) == 216, "redo_slot");
    _Static_assert(offsetof(shikaku_header, versions) == 4096, "versions");
    #endif
    """
    const uint32_t LAYOUT_VERSION "SHIKAKU_LAYOUT_VERSION"
    const uint32_t FORM_ATOMIC16 "SHIKAKU_FORM_ATOMIC16"
    const uint32_t FORM_VERSIONED "SHIKAKU_FORM_VERSIONED"
    const uint32_t STRIPES "SHIKAKU_STRIPES"
    const uint32_t SLOTS_PER_LINE "SHIKAKU_SLOTS_PER_LINE"
    const uint64_t PROVISIONAL "SHIKAKU_PROVISIONAL"
    const uint64_t OVERFLOW "SHIKAKU_OVERFLOW"
    const uint64_t AUX_MASK "SHIKAKU_AUX_MASK"
    const uint64_t TAG_MASK "SHIKAKU_TAG_MASK"
    const uint64_t UNSETTLED "SHIKAKU_UNSETTLED"

    ctypedef struct Slot "shikaku_slot":
        uint64_t w0
        uint64_t w1

    ctypedef struct Line "shikaku_line":
        Slot slots[4]

    ctypedef struct Header "shikaku_header":
        uint8_t magic[8]
        uint32_t layout_version
        uint32_t form
        uint64_t lines
        uint64_t generation
        uint8_t store_id[16]
        uint8_t key_id[8]
        uint64_t segment_bytes
        uint32_t checksum
        uint64_t retired
        uint64_t visible_seq
        uint64_t insurers_version
        uint64_t count
        uint64_t provisional_count
        uint64_t applied_seq
        uint64_t redo_slot
        uint64_t redo_w0
        uint64_t redo_w1
        uint64_t versions[1024]

    ctypedef struct Entry "shikaku_entry":
        uint64_t lo
        uint64_t hi
        uint16_t gained
        uint16_t lost
        uint16_t aux
        uint16_t kind

    ctypedef struct Match "shikaku_match":
        uint32_t person
        uint16_t gained
        uint16_t lost
        uint16_t aux
        uint16_t reserved
