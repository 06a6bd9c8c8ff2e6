// SPDX-License-Identifier: Apache-2.0
// containerd's view of a snapshot (its API containerd.services.snapshots.v1), as value types.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace imagefs {

// Numbered as in the API and on disk.
enum class SnapshotKind { kView = 1, kActive = 2, kCommitted = 3 };

using SnapshotLabels = std::map<std::string, std::string>;

// Names are chosen by containerd and may be any text: "<namespace>/<number>/<client's key>".
struct SnapshotInfo {
  std::string name;
  std::string parent;  // "" = none
  SnapshotKind kind = SnapshotKind::kActive;
  int64_t created_ns = 0;  // since 1970; equal to updated_ns until the first Update
  int64_t updated_ns = 0;
  SnapshotLabels labels;
};

// One mount(2) for the caller to make.
struct SnapshotMount {
  std::string type;    // "bind" or "overlay"
  std::string source;  // a directory, or "overlay"
  std::vector<std::string> options;

  friend bool operator==(const SnapshotMount&, const SnapshotMount&) = default;
};

// Of one snapshot, without its parents.
struct SnapshotUsage {
  int64_t bytes = 0;  // on disk
  int64_t inodes = 0;
};

// Labels that imagefs interprets.
inline constexpr char kRefLabel[] = "containerd.io/snapshot.ref";
inline constexpr char kUidMapLabel[] = "containerd.io/snapshot/uidmapping";
inline constexpr char kGidMapLabel[] = "containerd.io/snapshot/gidmapping";

}  // namespace imagefs
