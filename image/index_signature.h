// SPDX-License-Identifier: Apache-2.0
// Signatures of published indexes (docs/formats/published.md, "Signatures"): what exactly is
// signed, where signatures are stored, and verification against a set of trusted keys. No I/O;
// hostile artifacts yield errors.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/minisign.h"
#include "image/manifest.h"

namespace imagefs {

// A signature is the text of a .minisig file, stored in an annotation of the artifact's manifest
// whose name is this prefix and the key's id.
inline constexpr std::string_view kSignatureAnnotationPrefix = "dev.imagefs.signature.";
inline constexpr size_t kMaxSignatures = 16;

// Returns the bytes to sign: everything in the artifact that is trusted, and nothing else. Two
// artifacts have the same statement only if they say the same about the same image.
std::string IndexStatement(const Manifest& artifact);

// Returns whether `text` begins like a statement. Keys for indexes must sign nothing else.
bool IsIndexStatement(std::string_view text);

// Returns the name and value of the annotation for the text of a .minisig file.
absl::StatusOr<std::pair<std::string, std::string>> SignatureAnnotation(std::string_view minisig);

// Returns the annotations of `artifact` that have the form of signatures, at most kMaxSignatures,
// without verifying them.
std::map<std::string, std::string> SignatureAnnotations(const Manifest& artifact);

// A set of trusted public keys. A value type; immutable; thread-safe.
class IndexKeys {
 public:
  IndexKeys() = default;  // empty
  // Each key is a minisign public key in base64, or the text of a .pub file.
  static absl::StatusOr<IndexKeys> Parse(const std::vector<std::string>& keys);
  bool empty() const { return keys_.empty(); }

  // Returns OK if `artifact` carries a signature of its own statement by one of the keys, kNotFound
  // if none of the keys signed it, and kDataLoss if a signature claiming one of the keys is wrong
  // and no other is right. The caller must check that the artifact's subject is the image in
  // question.
  absl::Status Verify(const Manifest& artifact) const;

 private:
  std::vector<MinisignPublicKey> keys_;
};

}  // namespace imagefs
