// SPDX-License-Identifier: Apache-2.0
// The filters of containerd's List (its package filters). A filter is a list of selectors "field op
// value", joined by commas, all of which must match. A snapshot passes if any filter matches.
//
//   name==a            parent!="b c"        labels."containerd.io/snapshot.ref"==sha256:...
//   kind~=^(active|view)$                   labels.foo   (is set)
//
// A field is name, parent, kind or labels.KEY; parts that are not plain words are quoted like Go
// strings. Values are bare (no space, no comma) or quoted; after ~= also /.../ and |...|.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "snap/snapshot.h"

namespace imagefs {

// Immutable; cheap to copy; thread-safe.
class SnapshotFilter {
 public:
  // An empty list matches everything. kInvalidArgument says where a filter cannot be parsed.
  static absl::StatusOr<SnapshotFilter> Parse(const std::vector<std::string>& filters);

  bool Match(const SnapshotInfo& info) const;

 private:
  struct Selector;
  using Filter = std::vector<Selector>;
  class Parser;
  std::vector<std::shared_ptr<const Filter>> any_of_;
};

}  // namespace imagefs
