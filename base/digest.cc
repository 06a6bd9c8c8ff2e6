// SPDX-License-Identifier: Apache-2.0
#include "base/digest.h"

#include <openssl/evp.h>

#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"

namespace imagefs {
namespace {

// Takes about 50 microseconds to hash.
constexpr size_t kLongBytes = 64 << 10;

constexpr std::string_view kPrefix = "sha256:";

EVP_MD_CTX* Context(void* context) { return static_cast<EVP_MD_CTX*>(context); }

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

constexpr std::array<uint32_t, 256> MakeCrcTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0x82f63b78u : 0);
    table[i] = value;
  }
  return table;
}

uint32_t Crc32cByTable(uint32_t crc, std::string_view data) {
  static constexpr std::array<uint32_t, 256> kTable = MakeCrcTable();
  for (const char c : data) crc = (crc >> 8) ^ kTable[(crc ^ static_cast<uint8_t>(c)) & 0xff];
  return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) uint32_t Crc32cByInstruction(uint32_t seed,
                                                               std::string_view data) {
  uint64_t crc = seed;
  while (data.size() >= sizeof(uint64_t)) {
    uint64_t eight;
    std::memcpy(&eight, data.data(), sizeof(eight));
    crc = _mm_crc32_u64(crc, eight);
    data.remove_prefix(sizeof(eight));
  }
  auto low = static_cast<uint32_t>(crc);
  for (const char c : data) low = _mm_crc32_u8(low, static_cast<uint8_t>(c));
  return low;
}
#endif

}  // namespace

absl::StatusOr<Digest> Digest::Parse(std::string_view text) {
  if (text.starts_with("sha512:")) {
    return absl::InvalidArgumentError(
        StrCat("digest \"", Printable(text), "\": sha512 is not supported, only sha256"));
  }
  std::array<uint8_t, kSize> bytes{};
  bool good = text.starts_with(kPrefix) && text.size() == kPrefix.size() + 2 * kSize;
  for (size_t i = 0; good && i < kSize; ++i) {
    const int high = HexValue(text[kPrefix.size() + 2 * i]);
    const int low = HexValue(text[kPrefix.size() + 2 * i + 1]);
    good = high >= 0 && low >= 0;
    if (good) bytes[i] = static_cast<uint8_t>(high << 4 | low);
  }
  if (!good) {
    return absl::InvalidArgumentError(
        StrCat("\"", Printable(text),
               "\" is not a digest; expected sha256: and 64 lower-case "
               "hex digits"));
  }
  return Digest(bytes);
}

std::string Digest::hex() const {
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(bytes_.data()), bytes_.size()));
}
std::string Digest::ToString() const { return StrCat(kPrefix, hex()); }
std::string Digest::Short() const { return hex().substr(0, 12); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  EVP_DigestInit_ex(Context(context_), EVP_sha256(), nullptr);
}
Sha256::~Sha256() { EVP_MD_CTX_free(Context(context_)); }
Sha256::Sha256(Sha256&& other) noexcept : context_(std::exchange(other.context_, nullptr)) {}
Sha256& Sha256::operator=(Sha256&& other) noexcept {
  std::swap(context_, other.context_);
  return *this;
}

void Sha256::Update(std::string_view data) {
  EVP_DigestUpdate(Context(context_), data.data(), data.size());
}

Sha256 Sha256::Copy() const {
  Sha256 copy;
  EVP_MD_CTX_copy_ex(Context(copy.context_), Context(context_));
  return copy;
}

Digest Sha256::Finish() {
  std::array<uint8_t, Digest::kSize> bytes{};
  EVP_DigestFinal_ex(Context(context_), bytes.data(), nullptr);
  EVP_DigestInit_ex(Context(context_), EVP_sha256(), nullptr);
  return Digest(bytes);
}

Digest Sha256Of(std::string_view data) {
  if (data.size() > kLongBytes) MayBlock("hashing a long text");
  Sha256 hash;
  hash.Update(data);
  return hash.Finish();
}

absl::StatusOr<Digest> Sha256OfFile(int fd) {
  MayBlock("hashing a file");
  Sha256 hash;
  std::string buffer(256 << 10, '\0');
  for (uint64_t at = 0;; at += buffer.size()) {
    IMAGEFS_ASSIGN_OR_RETURN(const size_t got, PreadFull(fd, absl::MakeSpan(buffer), at));
    hash.Update(std::string_view(buffer.data(), got));
    if (got < buffer.size()) return hash.Finish();
  }
}

uint32_t Crc32c(uint32_t seed, std::string_view data) {
#if defined(__x86_64__)
  static const bool kHasInstruction = __builtin_cpu_supports("sse4.2");
  if (kHasInstruction) return Crc32cByInstruction(seed, data);
#endif
  return Crc32cByTable(seed, data);
}

absl::StatusOr<uint32_t> Crc32cOfFile(int fd) {
  uint32_t crc = ~0U;
  std::string buffer(256 << 10, '\0');
  for (uint64_t at = 0;; at += buffer.size()) {
    IMAGEFS_ASSIGN_OR_RETURN(const size_t got, PreadFull(fd, absl::MakeSpan(buffer), at));
    crc = Crc32c(crc, std::string_view(buffer.data(), got));
    if (got < buffer.size()) return crc;
  }
}

}  // namespace imagefs
