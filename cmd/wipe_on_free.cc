// SPDX-License-Identifier: Apache-2.0
// The daemon's free(3) and realloc(3), which wipe small blocks. This is the only way to wipe the
// copies of credentials that gRPC, protobuf, libcurl, OpenSSL and the parsers make. base/secret.h
// wipes those that this project holds itself.
//
// Only in imagefsd, and not with sanitizers, which have allocators of their own. The memory still
// comes from glibc's allocator.
#include <malloc.h>
#include <string.h>

#include <cstddef>
#include <cstdint>

extern "C" {
// glibc's own functions, for allocators that wrap it.
void __libc_free(void* block);
void* __libc_realloc(void* block, size_t size);
}

namespace {

// Larger than any buffer that holds a credential: libcurl's for a request is 64 KiB. Wiping larger
// blocks would cost time.
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
    // The tail may become a block of its own.
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
