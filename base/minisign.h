// SPDX-License-Identifier: Apache-2.0
// Keys and signatures in the formats of minisign (https://jedisct1.github.io/minisign/, "Signature
// format", "Public key format", "Secret key format"): Ed25519 over the BLAKE2b-512 hash of the
// message ("prehashed", minisign's default since 0.10). Legacy signatures over the message itself
// are rejected. No I/O; hostile input yields errors. Thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace imagefs {

// A parsed .minisig file, not yet verified. A value type.
class MinisignSignature {
 public:
  static constexpr size_t kMaxBytes = 10 << 10;  // minisign allows comments of up to 9 KiB

  // Four lines: an untrusted comment, the signature, the trusted comment, the signature over both.
  static absl::StatusOr<MinisignSignature> Parse(std::string_view text);
  // Id of the signing key: 16 upper-case hex digits, as minisign prints them.
  std::string key_id() const;
  const std::string& trusted_comment() const { return trusted_comment_; }

 private:
  friend class MinisignPublicKey;
  std::array<uint8_t, 8> id_{};
  std::array<uint8_t, 64> signature_{};
  std::array<uint8_t, 64> global_signature_{};  // over signature_ and trusted_comment_
  std::string trusted_comment_;
};

// A value type: an id and an Ed25519 point.
class MinisignPublicKey {
 public:
  // Parses a public key in base64 (56 characters, "RW..."), or the two lines of a .pub file.
  static absl::StatusOr<MinisignPublicKey> Parse(std::string_view text);
  std::string id() const;
  std::string ToString() const;  // the base64 text
  // Returns OK if the owner of the key signed `message` and the trusted comment, kNotFound if the
  // signature was made by a key with another id, kDataLoss if the signature is wrong.
  absl::Status Verify(std::string_view message, const MinisignSignature& signature) const;

 private:
  friend class MinisignSecretKey;
  std::array<uint8_t, 8> id_{};
  std::array<uint8_t, 32> point_{};
};

// Wiped on destruction. Movable, not copyable.
class MinisignSecretKey {
 public:
  static constexpr size_t kMaxFileBytes = 4 << 10;
  static constexpr size_t kMaxPasswordBytes = 1024;  // minisign's limit

  // Returns whether `file` (the text of a secret key file) is password-protected, or
  // kInvalidArgument if it is not a secret key file.
  static absl::StatusOr<bool> NeedsPassword(std::string_view file);
  // Uses the memory and time that the key demands (minisign's default: 1 GiB, one second), up to 2
  // GiB. Returns kPermissionDenied if the password is wrong. `password` is ignored if the key has
  // none.
  static absl::StatusOr<MinisignSecretKey> Parse(std::string_view file, std::string_view password);

  MinisignSecretKey(MinisignSecretKey&& other) noexcept;
  MinisignSecretKey& operator=(MinisignSecretKey&& other) noexcept;
  ~MinisignSecretKey();

  const MinisignPublicKey& public_key() const { return public_key_; }
  // Returns the text of a .minisig file; deterministic. `trusted_comment` is signed as well; it
  // must be one line of printable characters.
  absl::StatusOr<std::string> Sign(std::string_view message,
                                   std::string_view trusted_comment) const;

 private:
  MinisignSecretKey() = default;
  std::array<uint8_t, 32> seed_{};
  MinisignPublicKey public_key_;
};

}  // namespace imagefs
