// SPDX-License-Identifier: Apache-2.0
// Content digests "sha256:<64 hex>" (OCI image-spec, descriptor.md, Digests). Only sha256 is
// supported; Parse rejects sha512 with a message that says so.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace imagefs {

// A value type: 32 bytes, comparable, hashable.
class Digest {
 public:
  static constexpr size_t kSize = 32;
  Digest() = default;  // all zero: no digest
  explicit Digest(const std::array<uint8_t, kSize>& bytes) : bytes_(bytes) {}
  // Lower-case hex only, as the specification requires.
  static absl::StatusOr<Digest> Parse(std::string_view text);

  std::string ToString() const;  // "sha256:..."
  std::string hex() const;       // 64 hex digits, for file names
  std::string Short() const;     // 12 hex digits, for logs
  const std::array<uint8_t, kSize>& bytes() const { return bytes_; }
  bool empty() const { return *this == Digest(); }

  auto operator<=>(const Digest&) const = default;  // NOLINT(modernize-use-nullptr)
  template <typename H>
  friend H AbslHashValue(H h, const Digest& d) {
    return H::combine(std::move(h), d.bytes_);
  }

 private:
  std::array<uint8_t, kSize> bytes_{};
};

// Streaming SHA-256 (EVP, which uses SHA-NI where available). Not thread-safe.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  void Update(std::string_view data);
  Sha256 Copy() const;  // state of the data hashed so far
  Digest Finish();      // resets; the object may be reused

 private:
  void* context_;  // EVP_MD_CTX, owned
};

Digest Sha256Of(std::string_view data);
// Hashes the whole file from its beginning, regardless of the descriptor's position.
absl::StatusOr<Digest> Sha256OfFile(int fd);

// CRC-32C (Castagnoli) as used by EROFS superblocks: seed in, no final inversion. Several GB/s
// where the processor supports SSE 4.2.
uint32_t Crc32c(uint32_t seed, std::string_view data);
// CRC-32C of the whole file, like Sha256OfFile; the seed is all ones.
absl::StatusOr<uint32_t> Crc32cOfFile(int fd);

}  // namespace imagefs
