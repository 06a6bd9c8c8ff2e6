// SPDX-License-Identifier: Apache-2.0
// Mount records in the store's key-value database: key "mount/<directory>", value one JSON object
// (docs/formats/store.md). Thread-safe as the database is; a change is on disk when it returns.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fs/mount_record.h"

namespace imagefs {

class KeyValueStore;

class StoredMountRecords : public MountRecords {
 public:
  // `kv` must outlive this.
  explicit StoredMountRecords(KeyValueStore& kv) : kv_(kv) {}
  absl::Status Put(const MountRecord& record) override;
  absl::Status Delete(const std::string& place) override;
  // Logs and skips damaged records: one bad record must not prevent the recovery of the others.
  absl::StatusOr<Stored> List() override;

 private:
  KeyValueStore& kv_;
};

std::string EncodeMountRecord(const MountRecord& record);
absl::StatusOr<MountRecord> DecodeMountRecord(std::string_view text);

}  // namespace imagefs
