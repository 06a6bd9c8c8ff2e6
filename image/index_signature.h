// Signatures of published indexes (docs/formats/published.md, "Signatures"): what exactly is
// signed, where signatures lie, and whether one of a fleet's keys made one. Offline and pure;
// hostile artifacts give errors.
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

// A signature is the text of a .minisig file in an annotation of the artifact's manifest: this and
// the id of its key.
inline constexpr std::string_view kSignatureAnnotationPrefix = "dev.imagefs.signature.";
inline constexpr size_t kMaxSignatures = 16;

// The bytes that are signed: everything of the artifact that is believed, and nothing else. Equal
// for two artifacts only when they say the same about the same image.
std::string IndexStatement(const Manifest& artifact);

// Whether `text` begins as a statement does: a key for indexes signs nothing else.
bool IsIndexStatement(std::string_view text);

// Name and value of the annotation for the text of a .minisig file.
absl::StatusOr<std::pair<std::string, std::string>> SignatureAnnotation(std::string_view minisig);

// The annotations of `artifact` that are signatures by their form, at most kMaxSignatures. What
// they are worth is not looked at.
std::map<std::string, std::string> SignatureAnnotations(const Manifest& artifact);

// The public keys of a fleet. A value; immutable; thread-safe.
class IndexKeys {
 public:
  IndexKeys() = default;  // none
  // Each is the base64 text of a public key of minisign, or the text of a .pub file.
  static absl::StatusOr<IndexKeys> Parse(const std::vector<std::string>& keys);
  bool empty() const { return keys_.empty(); }

  // OK: `artifact` carries a signature by one of the keys over its own statement. That its subject
  // is the image in question is the caller's to check. kNotFound: none of the keys signed it.
  // kDataLoss: a signature in the name of one of the keys is wrong, and no other is right.
  absl::Status Verify(const Manifest& artifact) const;

 private:
  std::vector<MinisignPublicKey> keys_;
};

}  // namespace imagefs
