// SPDX-License-Identifier: Apache-2.0
// The version of the store's format, in its database (docs/formats/store.md). Blocks on the disk.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace imagefs {

class KeyValueStore;

// Returns whether the store in `root` has this program's format; a new store gets it. False: it has
// the one before, or its records were lost, so that nothing is trusted that was not hashed. Returns
// kFailedPrecondition for any other format.
absl::StatusOr<bool> CheckStoreVersion(KeyValueStore& kv, const std::string& root);
// Sets this program's format, once a store with an older one has been converted.
absl::Status WriteStoreVersion(KeyValueStore& kv);

}  // namespace imagefs
