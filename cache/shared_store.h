// SPDX-License-Identifier: Apache-2.0
// Stores that many daemons read and none writes: a directory on NFS, on the disk of a node image,
// or of root for its users, made by `imagefs export-store` (docs/formats/shared-store.md,
// docs/adr/0017-shared-stores.md).
//
//   <root>/imagefs-store.json              marks the directory as such a store
//   <root>/lock                            held (flock) by who adds to it
//   <root>/layers/<DiffID>/data            the data file of the layer: raw tar, moved segments
//   <root>/layers/<DiffID>/layer.json      its sizes, and the blobs that it was made from
//   <root>/documents/<digest>              exact bytes of a manifest or configuration
//   <root>/images/<reference>/<platform>   record of an image, written after all that it names;
//                                          both names are digests of the text
//
// Nothing read from it is believed: a layer is used once its data was hashed and parsed here
// (LayerStore), documents are compared with their digests, and who may have a layer is decided by
// the rules for local ones (docs/security.md).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/cancel.h"
#include "base/digest.h"
#include "base/fd.h"
#include "cache/image_types.h"
#include "cache/layer_entry.h"
#include "image/manifest.h"
#include "image/reference.h"

namespace imagefs {

// A layer as a shared store describes it.
struct SharedLayer {
  Digest diff_id;
  LayerForm form;
  uint64_t tar_bytes = 0;   // the first bytes of the data file: what `form` says
  uint64_t data_bytes = 0;  // size of the data file
  std::vector<BlobOrigin> origins;
  std::string data;  // path of the data file
};

// Returns whether a reader can check the layer: by its DiffID, or by what its name says of its
// form.
bool IsCheckable(const SharedLayer& layer);

// Opens the data file. kFailedPrecondition if it is no plain file of the size that `layer` says.
absl::StatusOr<Fd> OpenSharedData(const SharedLayer& layer);

// Returns kFailedPrecondition if the directory is no store made by `imagefs export-store`.
absl::Status CheckSharedStore(const std::string& directory);

// Reads shared stores. Nothing is kept between two calls, so that a store may be added to, mounted
// or unmounted at any time. Thread-safe; blocks on their file systems, without any lock.
class SharedStores {
 public:
  // Directories, in the order in which they are searched. They need not exist.
  explicit SharedStores(std::vector<std::string> roots) : roots_(std::move(roots)) {}

  bool empty() const { return roots_.empty(); }
  // Return kNotFound if no store has it. What cannot be read is logged and passed over.
  absl::StatusOr<SharedLayer> FindLayer(const Digest& diff_id) const;
  // A platform without a variant matches any variant.
  absl::StatusOr<ImageRef> FindImage(const Reference& reference, const Platform& platform) const;

  struct Listed {
    std::string root;
    ImageRef image;
    int64_t created = 0;  // when it was exported; Unix seconds
  };
  // Of all stores, those of the first store first.
  std::vector<Listed> List() const;

 private:
  // What cannot be read is noted and left out.
  std::vector<std::string> NamesIn(const std::string& root, const std::string& directory) const;
  std::vector<Listed> ImagesIn(const std::string& root, const std::string& directory) const;
  // Logs a trouble with a store when it begins and when it changes.
  void Note(const std::string& root, const absl::Status& status) const ABSL_LOCKS_EXCLUDED(mu_);

  const std::vector<std::string> roots_;
  mutable absl::Mutex mu_;
  mutable absl::flat_hash_map<std::string, std::string> troubles_ ABSL_GUARDED_BY(mu_);  // by root
};

// Adds to a shared store. What is there is left as it is, so that an interrupted export goes on
// where it ended; readers see layers and images whole or not at all. Blocks. Not thread-safe.
class SharedStoreWriter {
 public:
  // Returns kFailedPrecondition if the directory exists and has other content.
  static absl::Status Check(const std::string& directory);
  // Makes the directory if it is missing. Returns what Check returns, and kUnavailable if another
  // process is adding to it.
  static absl::StatusOr<SharedStoreWriter> Open(const std::string& directory);

  // Copies a layer's data file, sharing its blocks if the file system can. `layer.data` is ignored.
  // Returns the bytes that were added, 0 if the layer was there; kDataLoss if the bytes do not have
  // the DiffID.
  absl::StatusOr<uint64_t> PutLayer(const SharedLayer& layer, const Fd& data,
                                    const CancelToken& cancel);
  // REQUIRES: its layers were put.
  absl::Status PutImage(const ResolvedImage& image);

 private:
  SharedStoreWriter(std::string root, Fd lock) : root_(std::move(root)), lock_(std::move(lock)) {}
  absl::Status PutDocument(const Digest& digest, const std::string& bytes);
  absl::Status AddOrigins(const std::string& directory, const SharedLayer& layer);

  std::string root_;
  Fd lock_;
};

}  // namespace imagefs
