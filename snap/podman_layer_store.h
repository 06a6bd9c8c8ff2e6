// Podman's additional layer store (docs/podman.md): a FUSE file system in which podman, while it
// pulls an image, looks for each layer. One that can be shown is found there, and podman then has
// no need of its bytes. fs/layer_directory.h has the paths.
//
// Podman up to 5.0 asks by the digest of a layer's blob. Newer ones ask by that of its table of
// contents and find nothing here: some of them (5.8) lose the record of a layer that they find.
//
// A lookup brings the image that the reference names as far as it can be shown, with the node's
// credentials, and holds it. Layers that podman has said to use are found again after a restart,
// without network where they are here; others are forgotten an hour after they were looked for.
//
// Thread-safe. Root only. Destroy it before what it uses; FUSE workers hold the directory.
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

// The JSON that podman reads of a layer: the blob as the manifest has it, the DiffID, the size of
// its tar.
std::string PodmanLayerInfo(const Descriptor& blob, const Digest& diff_id, uint64_t tar_bytes);

class PodmanLayerStore {
 public:
  struct Deps {
    ImageStore& store;
    ImageUses& uses;
    FuseLoop& loop;
    // Whose descriptions of an image are believed: podman shares layers by their digests.
    TrustOf trust_of = TrustTrusted;
  };
  // Becomes an owner of `uses` and mounts the file system on `directory`, in the place of that of a
  // killed daemon. Lookups wait until the daemon serves.
  static absl::StatusOr<std::unique_ptr<PodmanLayerStore>> Open(const std::string& directory,
                                                                Deps deps);
  // Unmounts it; lookups under way fail. The trees of layers stay for the next process.
  ~PodmanLayerStore();
  // Before that, where nothing is to stay: also unmounts the trees. Nothing is found any more.
  void ReleaseAll();
  // Holds its images in the store.
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
