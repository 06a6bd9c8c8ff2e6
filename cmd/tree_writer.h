// SPDX-License-Identifier: Apache-2.0
// Writes files of an image below a directory of this machine, for `imagefs cp`. Nothing outside of
// that directory is touched, whatever the image contains: parents are opened by descriptors, and no
// symbolic link below the directory is followed. A file takes its place when it is whole, so a copy
// that fails leaves no truncated one; what it replaces may be any file but a directory.
//
// Keeps type, content (with its holes), mode, owner, time of modification, extended attributes and
// hard links, as far as the process may; not_kept() says what could not be. Not thread-safe. Blocks
// on the file system.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"
#include "cmd/file_entries.h"
#include "proto/control.pb.h"

namespace imagefs {

class TreeWriter {
 public:
  // The first entry becomes `name` in `directory`, an open directory whose path is `shown`. With an
  // empty name it has to be a directory, and what is in it is written into `directory`, whose
  // attributes stay.
  TreeWriter(Fd directory, std::string name, std::string shown);
  TreeWriter(const TreeWriter&) = delete;
  TreeWriter& operator=(const TreeWriter&) = delete;
  ~TreeWriter();  // removes a file that is not whole

  // The next entry and the next bytes of a file, as the daemon sends them.
  absl::Status Add(const control::v1::FileEntry& entry);
  absl::Status Write(const control::v1::FileData& data);
  // Call after the last one.
  absl::Status Finish();

  uint64_t files() const { return files_; }  // of any type, without `directory` itself
  uint64_t bytes() const { return bytes_; }
  // What could not be kept, each with the number of files it concerns.
  const std::map<std::string, uint64_t>& not_kept() const { return not_kept_; }

 private:
  using FileEntry = control::v1::FileEntry;
  // A directory into which files are being written. Its attributes are set when it is left, since
  // writing into it needs and changes them.
  struct Open {
    std::string path;  // in the image
    Fd fd;
    FileEntry entry;
    bool keep = true;  // set its attributes
  };
  // A file under a temporary name.
  struct Pending {
    FileEntry entry;
    Fd fd;  // of a regular file
    std::string name, temporary;
    AnnouncedBytes bytes;
  };

  absl::Status Leave(std::string_view path);
  absl::Status EndFile();
  absl::Status AddDirectory(const FileEntry& entry, const std::string& name);
  absl::Status MakeFile(const FileEntry& entry, const std::string& name);
  absl::Status Create(const Pending& file, Fd* fd);
  absl::Status LinkTo(const FileEntry& entry, const std::string& temporary);
  absl::Status SetAttributes(const FileEntry& entry, int directory, const std::string& name,
                             int fd);
  absl::Status SetXattrs(const FileEntry& entry, int at, const std::string& name, bool opened);
  // Returns true if the call failed for lack of rights, and notes what was not kept.
  bool Lost(int error_number, const std::string& what);
  std::string Shown(std::string_view path) const;
  std::string RelativePath(std::string_view path) const;

  const std::string name_, shown_;
  const Fd top_;
  std::string root_;  // path of the first entry in the image
  bool begun_ = false;
  std::vector<Open> open_;
  std::unique_ptr<Pending> pending_;
  uint64_t files_ = 0, bytes_ = 0;
  std::map<std::string, uint64_t> not_kept_;
};

}  // namespace imagefs
