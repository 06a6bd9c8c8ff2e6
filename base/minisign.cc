// SPDX-License-Identifier: Apache-2.0
#include "base/minisign.h"

#include <openssl/evp.h>
#include <string.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/secret.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr std::string_view kUntrusted = "untrusted comment: ";
constexpr std::string_view kTrusted = "trusted comment: ";
constexpr std::string_view kKeyAlgorithm = "Ed";
constexpr std::string_view kPrehashed = "ED";
constexpr std::string_view kScrypt = "Sc";
constexpr std::string_view kNoScrypt{"\0\0", 2};
constexpr std::string_view kChecksum = "B2";

// Layout of a decoded secret key: algorithms of the signature, the key derivation and the checksum;
// the scrypt parameters; then id, seed, public key and checksum, XORed with scrypt's output.
constexpr size_t kSaltAt = 6, kSaltBytes = 32;
constexpr size_t kOperationsAt = kSaltAt + kSaltBytes;
constexpr size_t kMemoryAt = kOperationsAt + 8;
constexpr size_t kSecretAt = kMemoryAt + 8;
constexpr size_t kSecretBytes = 8 + 32 + 32 + 32;
constexpr uint64_t kMaxScryptBytes = uint64_t{2} << 30;
constexpr uint64_t kMaxScryptOperations = uint64_t{1} << 28;

using PKey = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;
using Context = std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)>;
using Hash = std::array<uint8_t, 64>;

const uint8_t* Bytes(std::string_view text) {
  return reinterpret_cast<const uint8_t*>(text.data());
}
std::string_view View(const uint8_t* bytes, size_t size) {
  return {reinterpret_cast<const char*>(bytes), size};
}

// Decodes canonical base64 of exactly `size` bytes. Abseil's decoder would leave copies of secret
// keys behind, and ignores blanks.
bool DecodeBase64(std::string_view text, uint8_t* out, size_t size) {
  if (text.size() != (size + 2) / 3 * 4) return false;
  const size_t padding = (3 - size % 3) % 3;
  uint32_t bits = 0;
  size_t at = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    static constexpr std::string_view kAlphabet =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const bool pad = i >= text.size() - padding;
    const size_t digit = pad ? 0 : kAlphabet.find(text[i]);
    if (digit == std::string_view::npos || (pad && text[i] != '=')) return false;
    bits = bits << 6 | static_cast<uint32_t>(digit);
    if (i % 4 != 3) continue;
    for (int shift = 16; shift >= 0; shift -= 8) {
      const auto byte = static_cast<uint8_t>(bits >> shift);
      if (at < size) {
        out[at++] = byte;
      } else if (byte != 0) {
        return false;  // not canonical
      }
    }
    bits = 0;
  }
  return true;
}

std::string EncodeBase64(std::string_view bytes) { return absl::Base64Escape(ToAbsl(bytes)); }

// minisign's own trusted comments contain tabs.
bool IsPrintable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return c == '\t' || (static_cast<uint8_t>(c) >= ' ' && static_cast<uint8_t>(c) != 0x7f);
  });
}

std::string HexId(const std::array<uint8_t, 8>& id) {
  static constexpr char kDigits[] = "0123456789ABCDEF";
  std::string out;
  for (size_t i = id.size(); i-- > 0;) {
    out += kDigits[id[i] >> 4];
    out += kDigits[id[i] & 15];
  }
  return out;
}

uint64_t LittleEndian(const uint8_t* bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | bytes[i];
  return value;
}

// Splits a file of exactly `count` lines; the final newline is optional.
std::optional<std::vector<std::string_view>> Lines(std::string_view text, size_t count) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  std::vector<std::string_view> lines = Split(text, '\n');
  if (lines.size() != count || !lines[0].starts_with(kUntrusted)) return std::nullopt;
  return lines;
}

absl::Status OpenSslFailed(std::string_view what) {
  return absl::InternalError(StrCat("OpenSSL: ", what, " failed"));
}

absl::StatusOr<Hash> Blake2b(std::string_view message) {
  Hash out;
  if (EVP_Digest(message.data(), message.size(), out.data(), nullptr, EVP_blake2b512(), nullptr) !=
      1) {
    return OpenSslFailed("BLAKE2b-512");
  }
  return out;
}

bool VerifyEd25519(const std::array<uint8_t, 32>& point, std::string_view message,
                   const std::array<uint8_t, 64>& signature) {
  const PKey key(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, point.data(), point.size()),
                 &EVP_PKEY_free);
  const Context context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  return key != nullptr && context != nullptr &&
         EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.get()) == 1 &&
         EVP_DigestVerify(context.get(), signature.data(), signature.size(), Bytes(message),
                          message.size()) == 1;
}

absl::StatusOr<std::array<uint8_t, 64>> SignEd25519(EVP_PKEY* key, std::string_view message) {
  std::array<uint8_t, 64> out{};
  size_t size = out.size();
  const Context context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  if (context == nullptr ||
      EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key) != 1 ||
      EVP_DigestSign(context.get(), out.data(), &size, Bytes(message), message.size()) != 1 ||
      size != out.size()) {
    return OpenSslFailed("signing with Ed25519");
  }
  return out;
}

PKey PrivateKey(const std::array<uint8_t, 32>& seed) {
  return {EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, seed.data(), seed.size()),
          &EVP_PKEY_free};
}

// The data that the second signature of a .minisig covers: `signature` and the comment.
std::string WithComment(const std::array<uint8_t, 64>& signature, std::string_view comment) {
  return StrCat(View(signature.data(), signature.size()), comment);
}

// Derives scrypt's N and p from libsodium's limits (crypto_pwhash_scryptsalsa208sha256,
// pickparams); r is 8.
struct ScryptParameters {
  uint64_t n = 2;
  uint64_t p = 1;
};
ScryptParameters PickParameters(uint64_t operations, uint64_t memory) {
  constexpr uint64_t kR = 8;
  operations = std::max<uint64_t>(operations, 32768);
  const bool few_operations = operations < memory / 32;
  const uint64_t most = few_operations ? operations / (kR * 4) : memory / (kR * 128);
  ScryptParameters out;
  while (out.n <= most / 2) out.n *= 2;
  if (!few_operations) {
    const uint64_t rp = std::min<uint64_t>(operations / 4 / out.n, 0x3fffffff);
    out.p = std::max<uint64_t>(rp / kR, 1);
  }
  return out;
}

// XORs the secret part of a key with the keystream derived from the password.
absl::Status Unlock(SecretBuffer& key, std::string_view password) {
  const uint64_t operations = LittleEndian(key.bytes() + kOperationsAt);
  const uint64_t memory = LittleEndian(key.bytes() + kMemoryAt);
  if (memory > kMaxScryptBytes || operations > kMaxScryptOperations) {
    return absl::InvalidArgumentError(
        "its password asks for more than 2 GiB of memory, or more than 2^28 operations");
  }
  const ScryptParameters parameters = PickParameters(operations, memory);
  SecretBuffer stream(kSecretBytes);
  if (EVP_PBE_scrypt(password.data(), password.size(), key.bytes() + kSaltAt, kSaltBytes,
                     parameters.n, 8, parameters.p, kMaxScryptBytes + (64 << 20), stream.bytes(),
                     kSecretBytes) != 1) {
    return absl::ResourceExhaustedError(StrCat("its password asks for ", parameters.n >> 10,
                                               " MiB of memory, which is not available"));
  }
  for (size_t i = 0; i < kSecretBytes; ++i) key.bytes()[kSecretAt + i] ^= stream.bytes()[i];
  return absl::OkStatus();
}

absl::Status NoSecretKey() {
  return absl::InvalidArgumentError(
      "it is not a minisign secret key; minisign -G makes one (minisign.key, not minisign.pub)");
}

absl::Status DecodeSecretKey(std::string_view file, SecretBuffer& out) {
  const auto lines =
      file.size() <= MinisignSecretKey::kMaxFileBytes ? Lines(file, 2) : std::nullopt;
  if (!lines || !DecodeBase64((*lines)[1], out.bytes(), kSecretAt + kSecretBytes)) {
    return NoSecretKey();
  }
  const std::string_view key = out.view();
  const std::string_view kdf = key.substr(2, 2);
  if (key.substr(0, 2) != kKeyAlgorithm || (kdf != kScrypt && kdf != kNoScrypt) ||
      key.substr(4, 2) != kChecksum) {
    return NoSecretKey();
  }
  return absl::OkStatus();
}

bool IsLocked(const SecretBuffer& key) { return key.view().substr(2, 2) == kScrypt; }

}  // namespace

std::string MinisignSignature::key_id() const { return HexId(id_); }

absl::StatusOr<MinisignSignature> MinisignSignature::Parse(std::string_view text) {
  const auto lines = text.size() <= kMaxBytes ? Lines(text, 4) : std::nullopt;
  std::array<uint8_t, 2 + 8 + 64> bytes{};
  MinisignSignature out;
  if (!lines || !IsPrintable((*lines)[0]) || !IsPrintable((*lines)[2]) ||
      !(*lines)[2].starts_with(kTrusted) ||
      !DecodeBase64((*lines)[1], bytes.data(), bytes.size()) ||
      !DecodeBase64((*lines)[3], out.global_signature_.data(), out.global_signature_.size())) {
    return absl::InvalidArgumentError("it is not a minisign signature");
  }
  const std::string_view algorithm = View(bytes.data(), 2);
  if (algorithm == kKeyAlgorithm) {
    return absl::InvalidArgumentError(
        "it is a legacy minisign signature; sign again without minisign's option -l");
  }
  if (algorithm != kPrehashed) {
    return absl::InvalidArgumentError("it is a signature by an unknown algorithm");
  }
  std::copy_n(bytes.begin() + 2, out.id_.size(), out.id_.begin());
  std::copy_n(bytes.begin() + 10, out.signature_.size(), out.signature_.begin());
  out.trusted_comment_ = (*lines)[2].substr(kTrusted.size());
  return out;
}

std::string MinisignPublicKey::id() const { return HexId(id_); }

std::string MinisignPublicKey::ToString() const {
  return EncodeBase64(
      StrCat(kKeyAlgorithm, View(id_.data(), id_.size()), View(point_.data(), point_.size())));
}

absl::StatusOr<MinisignPublicKey> MinisignPublicKey::Parse(std::string_view text) {
  std::string_view line = text;
  if (line.ends_with('\n')) line.remove_suffix(1);
  if (text.starts_with(kUntrusted)) {
    const auto lines = Lines(text, 2);
    line = lines ? (*lines)[1] : "";
  }
  std::array<uint8_t, 2 + 8 + 32> bytes{};
  if (!DecodeBase64(line, bytes.data(), bytes.size()) || View(bytes.data(), 2) != kKeyAlgorithm) {
    // Longer text could be a secret key supplied by mistake.
    return absl::InvalidArgumentError(
        StrCat(line.size() <= 60 ? StrCat("\"", Printable(line), "\"") : "it",
               " is not a minisign public key; one has 56 characters and begins with RW, as the "
               "second line of minisign.pub"));
  }
  MinisignPublicKey out;
  std::copy_n(bytes.begin() + 2, out.id_.size(), out.id_.begin());
  std::copy_n(bytes.begin() + 10, out.point_.size(), out.point_.begin());
  return out;
}

absl::Status MinisignPublicKey::Verify(std::string_view message,
                                       const MinisignSignature& signature) const {
  if (signature.id_ != id_) {
    return absl::NotFoundError(
        StrCat("it is signed by the key ", signature.key_id(), ", not by ", id()));
  }
  IMAGEFS_ASSIGN_OR_RETURN(const Hash hash, Blake2b(message));
  if (!VerifyEd25519(point_, View(hash.data(), hash.size()), signature.signature_)) {
    return absl::DataLossError(
        StrCat("the signature of the key ", id(), " does not match the signed content"));
  }
  if (!VerifyEd25519(point_, WithComment(signature.signature_, signature.trusted_comment_),
                     signature.global_signature_)) {
    return absl::DataLossError(
        StrCat("the signature of the key ", id(), " does not match its trusted comment"));
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> MinisignSecretKey::NeedsPassword(std::string_view file) {
  SecretBuffer key(kSecretAt + kSecretBytes);
  IMAGEFS_RETURN_IF_ERROR(DecodeSecretKey(file, key));
  return IsLocked(key);
}

// Ignores minisign's checksum (BLAKE2b-256, which OpenSSL 3.0 lacks): comparing the public key with
// that of the seed detects a wrong password and damage as well.
absl::StatusOr<MinisignSecretKey> MinisignSecretKey::Parse(std::string_view file,
                                                           std::string_view password) {
  SecretBuffer key(kSecretAt + kSecretBytes);
  IMAGEFS_RETURN_IF_ERROR(DecodeSecretKey(file, key));
  if (IsLocked(key)) IMAGEFS_RETURN_IF_ERROR(Unlock(key, password));
  MinisignSecretKey out;
  const uint8_t* at = key.bytes() + kSecretAt;
  std::copy_n(at, out.public_key_.id_.size(), out.public_key_.id_.begin());
  std::copy_n(at + 8, out.seed_.size(), out.seed_.begin());
  const PKey pair = PrivateKey(out.seed_);
  std::array<uint8_t, 32>& point = out.public_key_.point_;
  size_t size = point.size();
  if (pair == nullptr || EVP_PKEY_get_raw_public_key(pair.get(), point.data(), &size) != 1) {
    return OpenSslFailed("making an Ed25519 key");
  }
  if (View(point.data(), size) != View(at + 40, 32)) {
    if (IsLocked(key)) return absl::PermissionDeniedError("the password is wrong");
    return absl::InvalidArgumentError("the key is damaged: its public half belongs to another key");
  }
  return out;
}

MinisignSecretKey::MinisignSecretKey(MinisignSecretKey&& other) noexcept
    : seed_(other.seed_), public_key_(other.public_key_) {
  explicit_bzero(other.seed_.data(), other.seed_.size());
}
MinisignSecretKey& MinisignSecretKey::operator=(MinisignSecretKey&& other) noexcept {
  std::swap(seed_, other.seed_);
  std::swap(public_key_, other.public_key_);
  return *this;
}
MinisignSecretKey::~MinisignSecretKey() { explicit_bzero(seed_.data(), seed_.size()); }

absl::StatusOr<std::string> MinisignSecretKey::Sign(std::string_view message,
                                                    std::string_view trusted_comment) const {
  if (!IsPrintable(trusted_comment) || trusted_comment.size() > 8000) {
    return absl::InvalidArgumentError("a trusted comment is one line of printable characters");
  }
  const PKey key = PrivateKey(seed_);
  if (key == nullptr) return OpenSslFailed("making an Ed25519 key");
  IMAGEFS_ASSIGN_OR_RETURN(const Hash hash, Blake2b(message));
  IMAGEFS_ASSIGN_OR_RETURN(const auto signature,
                           SignEd25519(key.get(), View(hash.data(), hash.size())));
  IMAGEFS_ASSIGN_OR_RETURN(const auto global,
                           SignEd25519(key.get(), WithComment(signature, trusted_comment)));
  const std::array<uint8_t, 8>& id = public_key_.id_;
  return StrCat(kUntrusted, "signature of imagefs by the key ", public_key_.id(), "\n",
                EncodeBase64(StrCat(kPrehashed, View(id.data(), id.size()),
                                    View(signature.data(), signature.size()))),
                "\n", kTrusted, trusted_comment, "\n",
                EncodeBase64(View(global.data(), global.size())), "\n");
}

}  // namespace imagefs
