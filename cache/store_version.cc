// SPDX-License-Identifier: Apache-2.0
#include "cache/store_version.h"

#include <optional>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/text.h"
#include "cache/kv.h"
#include "cache/store_lock.h"

namespace imagefs {
namespace {

constexpr std::string_view kVersionKey = "meta/version";
constexpr std::string_view kVersion = "2";
// Can be read: what it did not check is fetched again.
constexpr std::string_view kOldVersion = "1";

}  // namespace

absl::StatusOr<bool> CheckStoreVersion(KeyValueStore& kv, const std::string& root) {
  IMAGEFS_ASSIGN_OR_RETURN(const std::optional<std::string> version, kv.Get(kVersionKey));
  if (!version.has_value()) {
    // No version, but content that records must have named: the records were lost.
    IMAGEFS_ASSIGN_OR_RETURN(const std::vector<std::string> keys, kv.KeysWithPrefix(""));
    const bool lost = kv.lost_records() || !keys.empty() || StoreHasContent(root);
    if (lost) kv.NoteLost("the store has content, but no version");
    // As with an earlier version, nothing is trusted that was not hashed.
    if (lost) return false;
    IMAGEFS_RETURN_IF_ERROR(WriteStoreVersion(kv));
    return true;
  }
  if (*version == kVersion) return true;
  if (*version == kOldVersion) return false;
  return absl::FailedPreconditionError(StrCat(
      "the store ", root, " has format ", *version, ", this program knows formats ", kOldVersion,
      " and ", kVersion, "; use the program that made it, or another store with --root"));
}

absl::Status WriteStoreVersion(KeyValueStore& kv) {
  WriteBatch batch;
  batch.Put(kVersionKey, kVersion);
  return kv.Write(batch, true);
}

}  // namespace imagefs
