/* Owns absl's flat_hash_map from a 16-byte hash to a person number, for the comparisons of many lookups.

   As good as one would make it: the hash is ready, so the map takes it as it is; memory is asked for in huge pages; and
   beside the plain loop there is one that fetches ahead, as ours does. Called through ctypes; c++17. */

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <new>

#include "absl/container/flat_hash_map.h"

namespace {

struct Key {
  uint64_t lo, hi;
  bool operator==(const Key &other) const { return lo == other.lo && hi == other.hi; }
};
struct Ready {
  size_t operator()(const Key &key) const { return key.lo; }
};

// Large pieces in huge pages: a random read then needs no walk through the page tables.
template <class T>
struct Huge {
  using value_type = T;
  Huge() = default;
  template <class U>
  Huge(const Huge<U> &) {}
  static constexpr size_t kPage = size_t{2} << 20;
  static size_t bytes(size_t n) { return (n * sizeof(T) + kPage - 1) / kPage * kPage; }
  T *allocate(size_t n) {
    void *at = mmap(nullptr, bytes(n) + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    // The piece begins at a huge page; what is before and behind it is given back.
    uintptr_t start = (reinterpret_cast<uintptr_t>(at) + kPage - 1) / kPage * kPage;
    size_t before = start - reinterpret_cast<uintptr_t>(at);
    if (before) munmap(at, before);
    if (kPage - before) munmap(reinterpret_cast<void *>(start + bytes(n)), kPage - before);
    madvise(reinterpret_cast<void *>(start), bytes(n), MADV_HUGEPAGE);
    return reinterpret_cast<T *>(start);
  }
  void deallocate(T *at, size_t n) { munmap(at, bytes(n)); }
  template <class U>
  bool operator==(const Huge<U> &) const { return true; }
  template <class U>
  bool operator!=(const Huge<U> &) const { return false; }
};

using Map = absl::flat_hash_map<Key, uint32_t, Ready, std::equal_to<Key>, Huge<std::pair<const Key, uint32_t>>>;

constexpr size_t kAhead = 16;

}  // namespace

extern "C" {

void *flat_make(uint64_t keys) {
  Map *map = new Map();
  map->reserve(keys);
  return map;
}

void flat_insert(void *map, const Key *keys, const uint32_t *persons, uint64_t count) {
  for (uint64_t n = 0; n < count; n++) static_cast<Map *>(map)->emplace(keys[n], persons[n]);
}

uint64_t flat_bytes(void *map) { return static_cast<Map *>(map)->capacity() * (sizeof(std::pair<const Key, uint32_t>) + 1); }

// Writes the person of each key, 0 if there is none; returns how many were found.
uint64_t flat_find(void *map, const Key *keys, uint64_t count, uint32_t *persons) {
  const Map &known = *static_cast<Map *>(map);
  uint64_t found = 0;
  for (uint64_t n = 0; n < count; n++) {
    auto at = known.find(keys[n]);
    persons[n] = at == known.end() ? 0 : at->second;
    found += at != known.end();
  }
  return found;
}

uint64_t flat_find_ahead(void *map, const Key *keys, uint64_t count, uint32_t *persons) {
  const Map &known = *static_cast<Map *>(map);
  uint64_t found = 0;
  for (uint64_t n = 0; n < count && n < kAhead; n++) known.prefetch(keys[n]);
  for (uint64_t n = 0; n < count; n++) {
    if (n + kAhead < count) known.prefetch(keys[n + kAhead]);
    auto at = known.find(keys[n]);
    persons[n] = at == known.end() ? 0 : at->second;
    found += at != known.end();
  }
  return found;
}

void flat_free(void *map) { delete static_cast<Map *>(map); }
}
