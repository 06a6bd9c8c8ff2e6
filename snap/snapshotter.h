// containerd's snapshotter: layers of images that are never unpacked, writable directories for
// containers over them, and ordinary layers where an image cannot be had lazily. What is said in
// the comments of containerd's package snapshots about keys, parents, kinds and errors holds.
//
// A Prepare whose labels name a layer of an image (kRefLabel and the image's reference) is answered
// with kAlreadyExists once the layer can be shown: the snapshot is then committed already, under a
// name of its own, and containerd finds it by its label and parent. Where it cannot be shown, for
// whatever reason, the answer is an ordinary snapshot, and the log says why.
//
// The file system of a container is an overlay over one tree, the merged layers of its image as
// fs/mount_table.h shows them, and over what was committed on top of them. With kUidMapLabel or
// kGidMapLabel all of it belongs to the ids that they give (snap/mapped_lowers.h).
//
// Thread-safe. Asynchronous methods return at once; `done` runs exactly once, on any thread.
// What was acknowledged outlives a crash of the machine.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "base/flight.h"
#include "cache/image_store.h"
#include "snap/filter.h"
#include "snap/image_uses.h"
#include "snap/mapped_lowers.h"
#include "snap/snapshot.h"

namespace imagefs {

class Snapshotter {
 public:
  struct Deps {
    ImageStore& store;
    ImageUses& uses;
    // Whose descriptions of an image are believed. A snapshot is shared by its ChainID with every
    // image of the node.
    TrustOf trust_of = TrustTrusted;
  };
  struct Options {
    std::string directory;         // of ordinary snapshots: <root>/snapshots
    std::string mapped_directory;  // of what user namespaces see: <run>/mapped
    MappedLowers::Bind bind;       // as BindMount
    int threads = 8;               // for what blocks on local disk and mount(2)
  };
  // Takes up what was there, as an owner of `uses` (snap/image_uses.h).
  static absl::StatusOr<std::unique_ptr<Snapshotter>> Open(Options options, Deps deps);
  // Every call has ended. Trees that are shown stay so unless ReleaseAll was called.
  virtual ~Snapshotter() = default;

  struct PrepareRequest {
    std::string key;
    std::string parent;  // "" = none
    SnapshotLabels labels;
    SnapshotKind kind = SnapshotKind::kActive;  // or kView
  };
  using MountsDone = absl::AnyInvocable<void(absl::StatusOr<std::vector<SnapshotMount>>)>;
  virtual FlightTicket Prepare(PrepareRequest request, MountsDone done) = 0;
  virtual FlightTicket Mounts(const std::string& key, MountsDone done) = 0;

  using Done = absl::AnyInvocable<void(absl::Status)>;
  virtual void Commit(const std::string& name, const std::string& key, SnapshotLabels labels,
                      Done done) = 0;
  virtual void Remove(const std::string& key, Done done) = 0;
  // `paths` as of a field mask: empty or "labels" replaces all labels by those of `labels`,
  // "labels.KEY" one of them; an empty value deletes.
  using InfoDone = absl::AnyInvocable<void(absl::StatusOr<SnapshotInfo>)>;
  virtual void Update(const std::string& name, SnapshotLabels labels,
                      std::vector<std::string> paths, InfoDone done) = 0;
  using UsageDone = absl::AnyInvocable<void(absl::StatusOr<SnapshotUsage>)>;
  virtual FlightTicket Usage(const std::string& key, UsageDone done) = 0;
  // Done when the space of everything that was removed before is given back.
  virtual void Cleanup(Done done) = 0;

  virtual absl::StatusOr<SnapshotInfo> Stat(const std::string& key) const = 0;
  virtual std::vector<SnapshotInfo> List(const SnapshotFilter& filter) const = 0;

  virtual bool empty() const = 0;  // there is no snapshot

  // Takes the trees away that containers do not use at this moment.
  virtual void ReleaseAll() = 0;
  // Prepares that were answered lazily and those that were not though their labels asked for it.
  virtual std::vector<std::pair<std::string, uint64_t>> Counters() const = 0;
};

}  // namespace imagefs
