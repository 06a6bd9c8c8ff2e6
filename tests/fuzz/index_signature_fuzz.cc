// SPDX-License-Identifier: Apache-2.0
// Hostile artifacts that say that they are signed.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/digest.h"
#include "image/index_signature.h"
#include "image/manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace imagefs;  // NOLINT
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  // Of the committed corpus.
  static const auto kKeys =
      IndexKeys::Parse({"RWSKNqp+nTqvMI32F6xbm56YB+QBPKZe5q9alOdgEbnS5gQLCdsIhlNU"});
  const auto parsed = ParseManifest(text, "");
  if (!parsed.ok() || !parsed->manifest.has_value()) return 0;
  Manifest artifact = *parsed->manifest;
  const std::string statement = IndexStatement(artifact);
  // One line for each thing, whatever the texts hold.
  size_t lines = 3 + artifact.layers.size();
  for (const Descriptor& layer : artifact.layers) lines += layer.annotations.size();
  if (static_cast<size_t>(std::count(statement.begin(), statement.end(), '\n')) != lines) abort();
  if (!IsIndexStatement(statement)) abort();
  if (SignatureAnnotations(artifact).size() > kMaxSignatures) abort();
  if (!kKeys->Verify(artifact).ok()) return 0;
  // A signature is of one image only, and of these layers only.
  if (!artifact.subject.has_value()) abort();
  artifact.subject->digest = Sha256Of("another image");
  if (kKeys->Verify(artifact).ok()) abort();
  artifact = *parsed->manifest;
  artifact.layers.emplace_back();
  if (kKeys->Verify(artifact).ok()) abort();
  return 0;
}
