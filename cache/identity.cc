// SPDX-License-Identifier: Apache-2.0
#include "cache/identity.h"

#include "base/text.h"
#include "image/manifest.h"

namespace imagefs {

// The text is neither a tar nor a list of DiffIDs, so no layer and no ChainID can have its digest.
Digest UnprovenLayerId(const Digest& blob, const Digest& diff_id, const FoundIndex& found,
                       std::string_view registry) {
  return Sha256Of(StrCat("imagefs unproven layer 1\nblob ", blob.ToString(), "\ndiff_id ",
                         diff_id.ToString(), "\n", found.origin, " ", found.description.ToString(),
                         "\nregistry ", registry, "\n"));
}

Digest UnhashedLayerId(const Digest& blob, const Digest& diff_id, std::string_view registry) {
  return Sha256Of(StrCat("imagefs unproven layer 1\nblob ", blob.ToString(), "\ndiff_id ",
                         diff_id.ToString(), "\npass\nregistry ", registry, "\n"));
}

Digest UnverifiedBlobKey(const Digest& blob) {
  return Sha256Of(StrCat("imagefs unverified blob 1\n", blob.ToString(), "\n"));
}

Digest ChainIdentity(const std::vector<Digest>& layer_ids, const std::vector<Digest>& diff_ids) {
  if (layer_ids == diff_ids) return ChainIds(diff_ids).back();
  std::string text = "imagefs unproven chain 1\n";
  for (const Digest& id : layer_ids) StrAppend(&text, id.ToString(), "\n");
  return Sha256Of(text);
}

}  // namespace imagefs
