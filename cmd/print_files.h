// SPDX-License-Identifier: Apache-2.0
// Prints the lists of files of an image, entry by entry, since they may be long. Pure.
#pragma once

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "proto/control.pb.h"

namespace imagefs {

struct FileLineOptions {
  bool long_format = false;
  bool layer = false;
  bool null = false;    // end lines with NUL
  bool escape = false;  // the reader is a terminal
};
std::string FileLine(const control::v1::FileEntry& entry, const FileLineOptions& options);
std::string ChangeLine(const control::v1::FileChange& change, bool escape);

// One element of a JSON array.
std::string FileEntryJson(const control::v1::FileEntry& entry);
std::string FileChangeJson(const control::v1::FileChange& change);

// A JSON object whose one long array is printed in pieces.
class JsonList {
 public:
  // `name`: of the array.
  explicit JsonList(std::string name) : name_(std::move(name)) {}
  // Returns the text of the next element.
  std::string Add(const std::string& element);
  // Returns the text that ends the object, with these further members: JSON text that begins with a
  // comma, or "".
  std::string End(const std::string& members);
  // The same with a member `error`, or the object of print.h's ErrorJson if nothing was printed.
  std::string EndWith(const absl::Status& error);

 private:
  const std::string name_;
  bool begun_ = false;
};

}  // namespace imagefs
