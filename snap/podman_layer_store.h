// SPDX-License-Identifier: Apache-2.0
// Podman's additional layer store (docs/podman.md): a FUSE file system in which podman looks up
// each layer when it pulls an image. If the layer can be presented, podman finds it there and does
// not download it. fs/layer_directory.h has the paths.
//
// Podman up to 5.0 looks up the digest of a layer's blob. Newer versions look up the digest of its
// table of contents and find nothing here: some of them (5.8) lose the record of a layer that they
// find.
//
// A lookup fetches enough of the image that the reference names to present it, with the node's
// credentials, and holds it. Layers that podman reports as used are found again after a restart,
// without network access if they are local. Others are forgotten an hour after their lookup.
//
// Thread-safe. Root only. Must be destroyed before the objects it uses; FUSE workers hold the
// directory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "base/digest.h"
#include "cache/image_store.h"
#include "fs/fuse_loop.h"
#include "snap/image_uses.h"

namespace imagefs {

// Returns the JSON that podman reads for a layer: the blob as in the manifest, the DiffID, and the
// size of its tar.
std::string PodmanLayerInfo(const Descriptor& blob, const Digest& diff_id, uint64_t tar_bytes);

class PodmanLayerStore {
 public:
  struct Deps {
    ImageStore& store;
    ImageUses& uses;
    FuseLoop& loop;
    // Whose image descriptions are trusted: podman shares layers by their digests.
    TrustOf trust_of = TrustTrusted;
  };
  // Becomes an owner of `uses` and mounts the file system on `directory`, replacing the mount of a
  // killed daemon. Lookups wait until the daemon serves.
  static absl::StatusOr<std::unique_ptr<PodmanLayerStore>> Open(const std::string& directory,
                                                                Deps deps);
  // Unmounts it; running lookups fail. The trees of layers stay mounted for the next process.
  ~PodmanLayerStore();
  // Also unmounts the trees. Call before destruction if nothing is to stay; lookups fail
  // afterwards.
  void ReleaseAll();
  // The holder of its images in the store.
  static constexpr char kHolder[] = "podman-layers";

  struct Counters {
    uint64_t found = 0, absent = 0;
  };
  Counters counters() const;

 private:
  class Directory;
  PodmanLayerStore(std::string path, std::shared_ptr<Directory> directory)
      : path_(std::move(path)), directory_(std::move(directory)) {}
  const std::string path_;
  const std::shared_ptr<Directory> directory_;
  std::unique_ptr<FuseSession> session_;
};

}  // namespace imagefs
