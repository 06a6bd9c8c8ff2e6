// Content digests "sha256:<64 hex>" (OCI image-spec, descriptor.md, Digests). Only sha256 is
// supported; sha512 is refused by Parse with a message that says so.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace imagefs {

// A value: 32 bytes, comparable, hashable.
class Digest {
 public:
  static constexpr size_t kSize = 32;
  Digest() = default;  // all zero: no digest
  explicit Digest(const std::array<uint8_t, kSize>& bytes) : bytes_(bytes) {}
  // Lower-case hex only, as the specification demands.
  static absl::StatusOr<Digest> Parse(std::string_view text);

  std::string ToString() const;  // "sha256:..."
  std::string hex() const;       // 64 hex digits: file names
  std::string Short() const;     // 12 hex digits: logs
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

// Streaming SHA-256 (EVP, so SHA-NI where the processor has it). Not thread-safe.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  void Update(std::string_view data);
  Sha256 Copy() const;  // of what was hashed so far
  Digest Finish();      // resets: the object may be used again

 private:
  void* context_;  // EVP_MD_CTX, owned
};

Digest Sha256Of(std::string_view data);
// Of the whole file, read from its beginning; the descriptor's position does not matter.
absl::StatusOr<Digest> Sha256OfFile(int fd);

// CRC-32C (Castagnoli), as EROFS superblocks use it: seed in, no final inversion. Several GB/s
// where the processor has it (SSE 4.2).
uint32_t Crc32c(uint32_t seed, std::string_view data);
// Of the whole file, as Sha256OfFile; the seed is all ones.
absl::StatusOr<uint32_t> Crc32cOfFile(int fd);

}  // namespace imagefs
