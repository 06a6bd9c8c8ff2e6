// SPDX-License-Identifier: Apache-2.0
// The file environment of LevelDB. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace leveldb {
class Env;
}  // namespace leveldb

namespace imagefs {

// Files on disk, with differences from LevelDB's default: tables are read and not mapped, so that
// truncating a file causes an error and does not kill the process; an unreadable sector counts as
// damage of the file, which repair skips; after a failed write a file accepts no more, because
// later data would be read as damage; and a log reserves `log_bytes` when it is created, if there
// is space.
std::unique_ptr<leveldb::Env> MakeDiskEnv(uint64_t log_bytes);

// Returns whether a file of that name is part of a database.
bool IsDatabaseFile(std::string_view name);

// Returns an environment with an in-memory copy of the database in `dir`; writes go to memory, too.
absl::StatusOr<std::unique_ptr<leveldb::Env>> MakeMemoryEnv(const std::string& dir);

// Space kept on the disk for when it is full: a file of kReserveBytes.
inline constexpr uint64_t kReserveBytes = 4 << 20;
// Creates the file, unless the disk has little more space than that.
void MakeReserve(const std::string& path);
// Frees the space. Returns true if there was a reserve.
bool ReleaseReserve(const std::string& path);

}  // namespace imagefs
