// SPDX-License-Identifier: Apache-2.0
#include "image/index_signature.h"

#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr std::string_view kFirstLine = "imagefs index statement 1\n";

// An injective encoding without blanks, line ends and unprintable bytes.
std::string Escaped(std::string_view text) {
  static constexpr char kDigits[] = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    if (c > ' ' && c < 0x7f && c != '%') {
      out += c;
    } else {
      const auto byte = static_cast<uint8_t>(c);
      out += '%';
      out += kDigits[byte >> 4];
      out += kDigits[byte & 15];
    }
  }
  return out;
}

std::string SubjectOf(const Manifest& artifact) {
  return artifact.subject.has_value() ? artifact.subject->digest.ToString() : "none";
}

}  // namespace

std::string IndexStatement(const Manifest& artifact) {
  std::string out(kFirstLine);
  StrAppend(&out, "artifact ", Escaped(artifact.artifact_type), "\n");
  StrAppend(&out, "subject ", SubjectOf(artifact), "\n");
  for (const Descriptor& layer : artifact.layers) {
    StrAppend(&out, "layer ", Escaped(layer.media_type), " ", layer.digest.ToString(), " ",
              layer.size, "\n");
    for (const auto& [name, value] : layer.annotations) {
      StrAppend(&out, "annotation ", Escaped(name), " ", Escaped(value), "\n");
    }
  }
  return out;
}

bool IsIndexStatement(std::string_view text) { return text.starts_with(kFirstLine); }

absl::StatusOr<std::pair<std::string, std::string>> SignatureAnnotation(std::string_view minisig) {
  IMAGEFS_ASSIGN_OR_RETURN(const MinisignSignature signature, MinisignSignature::Parse(minisig));
  return std::make_pair(StrCat(kSignatureAnnotationPrefix, signature.key_id()),
                        std::string(minisig));
}

std::map<std::string, std::string> SignatureAnnotations(const Manifest& artifact) {
  std::map<std::string, std::string> out;
  for (const auto& [name, value] : artifact.annotations) {
    if (!name.starts_with(kSignatureAnnotationPrefix) || out.size() == kMaxSignatures) continue;
    auto annotation = SignatureAnnotation(value);
    if (annotation.ok() && annotation->first == name) out.insert(*std::move(annotation));
  }
  return out;
}

absl::StatusOr<IndexKeys> IndexKeys::Parse(const std::vector<std::string>& keys) {
  IndexKeys out;
  for (const std::string& text : keys) {
    IMAGEFS_ASSIGN_OR_RETURN(MinisignPublicKey key, MinisignPublicKey::Parse(text));
    out.keys_.push_back(std::move(key));
  }
  return out;
}

absl::Status IndexKeys::Verify(const Manifest& artifact) const {
  const std::string statement = IndexStatement(artifact);
  absl::Status wrong = absl::OkStatus();
  for (const MinisignPublicKey& key : keys_) {
    const auto it = artifact.annotations.find(StrCat(kSignatureAnnotationPrefix, key.id()));
    if (it == artifact.annotations.end()) continue;
    absl::StatusOr<MinisignSignature> signature = MinisignSignature::Parse(it->second);
    absl::Status status = signature.ok() ? key.Verify(statement, *signature) : signature.status();
    if (status.ok() && artifact.subject.has_value()) return absl::OkStatus();
    if (status.ok()) status = absl::DataLossError("it belongs to no image");
    wrong = absl::DataLossError(StrCat("the index of ", SubjectOf(artifact), ", signature ",
                                       key.id(), ": ", ToStd(status.message())));
  }
  if (!wrong.ok()) return wrong;
  return absl::NotFoundError(StrCat("the index of ", SubjectOf(artifact),
                                    " is signed by none of the keys of index.keys; imagefs index "
                                    "--push --sign KEY signs it"));
}

}  // namespace imagefs
