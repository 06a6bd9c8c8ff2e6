// The filters of containerd's List (its package filters): selectors "field op value" joined by
// commas, all of which must hold; of several filters one must.
//
//   name==a            parent!="b c"        labels."containerd.io/snapshot.ref"==sha256:...
//   kind~=^(active|view)$                   labels.foo   (is there)
//
// A field is name, parent, kind or labels.KEY, its parts quoted like Go strings where they are no
// words. Values are bare (no blank, no comma) or quoted; after ~= also /.../ and |...|.
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
  // No filter at all lets everything pass. kInvalidArgument tells where a filter cannot be read.
  static absl::StatusOr<SnapshotFilter> Parse(const std::vector<std::string>& filters);

  bool Match(const SnapshotInfo& info) const;

 private:
  struct Selector;
  using Filter = std::vector<Selector>;
  class Parser;
  std::vector<std::shared_ptr<const Filter>> any_of_;
};

}  // namespace imagefs
