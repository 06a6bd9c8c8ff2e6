// SPDX-License-Identifier: Apache-2.0
// The daemon's free(3) and realloc(3): small blocks are wiped when they are given back. What gRPC,
// protobuf, libcurl, OpenSSL and the parsers copy of a credential is out of this project's reach
// but for this. base/secret.h wipes what this project holds itself.
//
// Only in imagefsd, and not under a sanitizer, which has an allocator of its own. The memory comes
// from glibc's allocator as ever.
#include <malloc.h>
#include <string.h>

#include <cstddef>
#include <cstdint>

extern "C" {
// glibc's own, for allocators that are put in front of it.
void __libc_free(void* block);
void* __libc_realloc(void* block, size_t size);
}

namespace {

// More than any buffer that carries a credential: libcurl's for a request is 64 KiB. Wiping more
// than that would cost time.
constexpr size_t kMaxBytes = 96 << 10;

}  // namespace

extern "C" {

[[gnu::visibility("default")]] void free(void* block) noexcept {
  if (block == nullptr) return;
  const size_t size = malloc_usable_size(block);
  if (size <= kMaxBytes) explicit_bzero(block, size);
  __libc_free(block);
}

[[gnu::visibility("default")]] void* realloc(void* block, size_t size) noexcept {
  if (block == nullptr || size == 0) return __libc_realloc(block, size);
  const size_t old_size = malloc_usable_size(block);
  if (old_size > kMaxBytes) return __libc_realloc(block, size);
  if (size <= old_size) {
    // The rest may become a block of its own.
    explicit_bzero(static_cast<char*>(block) + size, old_size - size);
    return __libc_realloc(block, size);
  }
  void* const moved = malloc(size);
  if (moved == nullptr) return nullptr;
  memcpy(moved, block, old_size);
  free(block);
  return moved;
}

}  // extern "C"
