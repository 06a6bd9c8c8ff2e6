// SPDX-License-Identifier: Apache-2.0
// Digests in binary files: their 32 bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "base/digest.h"

namespace imagefs {

inline void PutDigest(std::string& out, const Digest& digest) {
  out.append(reinterpret_cast<const char*>(digest.bytes().data()), Digest::kSize);
}

// REQUIRES: at + Digest::kSize <= bytes.size().
inline Digest GetDigest(std::string_view bytes, size_t at) {
  std::array<uint8_t, Digest::kSize> digest;
  std::memcpy(digest.data(), bytes.data() + at, digest.size());
  return Digest(digest);
}

}  // namespace imagefs
