// SPDX-License-Identifier: Apache-2.0
// Little-endian integers in files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace imagefs {

template <typename T>
void PutLittleEndian(std::string& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

// REQUIRES: at + sizeof(T) <= bytes.size().
template <typename T>
T GetLittleEndian(std::string_view bytes, size_t at = 0) {
  T value = 0;
  for (size_t i = sizeof(T); i-- > 0;) {
    value = static_cast<T>(value << 8 | static_cast<uint8_t>(bytes[at + i]));
  }
  return value;
}

}  // namespace imagefs
