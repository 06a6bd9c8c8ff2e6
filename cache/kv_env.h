// The files that LevelDB works on. Thread-safe.
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

// Files on the disk, with differences to LevelDB's own way: tables are read and not mapped, so that
// a file that is cut is an error and not the end of the process; a sector that cannot be read is
// damage of the file, which repair reads around; a file of which one write failed takes no more,
// since what follows would be read as damage; and a log has room for `log_bytes` when it is begun,
// if there is any.
std::unique_ptr<leveldb::Env> MakeDiskEnv(uint64_t log_bytes);

// Whether a file of that name holds a part of a database.
bool IsDatabaseFile(std::string_view name);

// A copy in memory of the database that lies in `dir`; files are written to memory, too.
absl::StatusOr<std::unique_ptr<leveldb::Env>> MakeMemoryEnv(const std::string& dir);

// Room on the disk for the moment in which there is no other: a file of kReserveBytes.
inline constexpr uint64_t kReserveBytes = 4 << 20;
// Makes the file, unless the disk has little more room than that.
void MakeReserve(const std::string& path);
// Gives the room back. True when there was a reserve.
bool ReleaseReserve(const std::string& path);

}  // namespace imagefs
