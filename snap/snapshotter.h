// SPDX-License-Identifier: Apache-2.0
// containerd's snapshotter: image layers that are never unpacked, writable directories for
// containers on top of them, and ordinary layers for images that cannot be presented lazily. The
// rules of containerd's package snapshots for keys, parents, kinds and errors apply.
//
// A Prepare whose labels name a layer of an image (kRefLabel and the image's reference) returns
// kAlreadyExists once the layer can be presented: the snapshot has then been committed under a name
// of its own, and containerd finds it by its label and parent. If it cannot be presented, Prepare
// returns an ordinary snapshot, and the log says why; but if image verifiers deny the image,
// Prepare fails, so that containerd does not unpack it.
//
// The file system of a container is an overlay over one tree, the merged layers of its image
// mounted through fs/mount_table.h, and over what was committed on top of them. With kUidMapLabel
// or kGidMapLabel, all of it is mapped to the ids that they specify (snap/mapped_lowers.h).
//
// Thread-safe. Asynchronous methods do not block; `done` runs exactly once, on any thread.
// Acknowledged changes survive a crash of the machine.
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
    // Whose image descriptions are trusted. A snapshot is shared, by ChainID, with every image of
    // the node.
    TrustOf trust_of = TrustTrusted;
    std::function<void()> shown;  // runs after a Prepare was answered lazily; may be empty
  };
  // The owner's name of the images that snapshots are of (ImageStore::ListHeld).
  static constexpr char kHolder[] = "snapshots";
  struct Options {
    std::string directory;         // of ordinary snapshots: <root>/snapshots
    std::string mapped_directory;  // mapped lowers for user namespaces: <run>/mapped
    MappedLowers::Bind bind;       // like BindMount
    int threads = 8;               // for work that blocks on local disk and mount(2)
    // containerd unpacks no image whose layers are not presented, because it does not ask the
    // image verifiers (fetch/image_verifier.h): such a Prepare fails.
    bool only_verified = false;
  };
  // Reclaims existing snapshots, as an owner of `uses` (snap/image_uses.h).
  static absl::StatusOr<std::unique_ptr<Snapshotter>> Open(Options options, Deps deps);
  // REQUIRES: every call has ended. Mounted trees stay mounted unless ReleaseAll was called.
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
  // `paths` is like a field mask: empty or "labels" replaces all labels by `labels`; "labels.KEY"
  // replaces that one. An empty value deletes a label.
  using InfoDone = absl::AnyInvocable<void(absl::StatusOr<SnapshotInfo>)>;
  virtual void Update(const std::string& name, SnapshotLabels labels,
                      std::vector<std::string> paths, InfoDone done) = 0;
  using UsageDone = absl::AnyInvocable<void(absl::StatusOr<SnapshotUsage>)>;
  virtual FlightTicket Usage(const std::string& key, UsageDone done) = 0;
  // `done` runs once the space of everything removed earlier has been freed.
  virtual void Cleanup(Done done) = 0;

  virtual absl::StatusOr<SnapshotInfo> Stat(const std::string& key) const = 0;
  virtual std::vector<SnapshotInfo> List(const SnapshotFilter& filter) const = 0;

  virtual bool empty() const = 0;  // true if there is no snapshot

  // An image of which there are lazy snapshots, and the active snapshots (of containers) on top of
  // them. Ordered.
  struct ImageUse {
    Digest manifest;
    std::string name_space;  // of containerd; "" if no container uses the image
    uint64_t containers = 0;
    auto operator<=>(const ImageUse&) const = default;
  };
  virtual std::vector<ImageUse> ImagesInUse() const = 0;

  // Unmounts the trees that no container currently uses.
  virtual void ReleaseAll() = 0;
  // Returns the numbers of Prepares answered lazily, and of those not answered lazily although
  // their labels asked for it.
  virtual std::vector<std::pair<std::string, uint64_t>> Counters() const = 0;
};

}  // namespace imagefs
