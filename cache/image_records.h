// SPDX-License-Identifier: Apache-2.0
// The records of images in the store's database: listed images, images held by a part of the
// program, and the documents that both refer to (docs/formats/store.md).
//
// Thread-safe; every method blocks on the database.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/digest.h"
#include "cache/image_row.h"
#include "cache/image_types.h"
#include "cache/kv.h"
#include "image/manifest.h"
#include "image/reference.h"

namespace imagefs {

class ImageRecords {
 public:
  explicit ImageRecords(KeyValueStore& kv) : kv_(kv) {}  // `kv` must outlive this

  // Durably records the image with the names of its lowest layers: as listed if `holder` is empty,
  // else as held by that part of the program. Keeps the recorded names of further layers. Writes
  // nothing if the same record exists.
  absl::Status Put(const ResolvedImage& image, const std::string& holder,
                   const std::vector<Digest>& layers) ABSL_LOCKS_EXCLUDED(mu_);
  // Durably deletes the records of that reference for all platforms. Returns kNotFound if there are
  // none.
  absl::Status Remove(const Reference& reference) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status RemoveHeld(const std::string& holder, const Digest& manifest)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Pinned images are listed ones that are not removed to make room. kNotFound if the image is not
  // listed; unpinning an image that is not pinned is kNotFound, too.
  absl::Status Pin(const Reference& reference) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status Unpin(const Reference& reference) ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<absl::flat_hash_set<std::string>> Pins() const;  // canonical references

  // Layers that were made for an image without a record yet, and when (Unix seconds): its pull was
  // interrupted, or is running.
  absl::StatusOr<absl::flat_hash_map<Digest, int64_t>> Unclaimed() const;
  // An image with these layers is recorded.
  absl::Status Claim(const std::vector<Digest>& layers);

  // Finds a listed image. A platform without a variant matches any variant. Returns kNotFound with
  // a remedy.
  absl::StatusOr<ImageRef> Find(const Reference& reference, const Platform& platform) const;
  absl::StatusOr<ImageRef> FindManifest(const Digest& manifest) const;  // listed or held
  struct Listed {
    std::string reference;
    ImageRef image;
    int64_t created = 0;  // Unix seconds
  };
  // Damaged records are reported as such and left out, here and below.
  absl::StatusOr<std::vector<Listed>> List() const;
  absl::StatusOr<std::vector<ImageRef>> ListHeld(const std::string& holder) const;
  absl::StatusOr<std::vector<Listed>> ListAllHeld() const;  // one entry per reference and manifest
  // A listed or held image by its record alone: without its documents, so that reading it is quick.
  // Has the images whose documents are damaged, too.
  struct Row {
    std::string reference;
    bool listed = false;  // otherwise held
    Digest manifest;
    std::vector<Digest> layer_ids;  // as ResolvedImage::layer_ids
  };
  absl::StatusOr<std::vector<Row>> Rows() const;
  // Visits listed and held images until `visit` returns false.
  void ForEach(absl::FunctionRef<bool(const ResolvedImage&)> visit) const;
  // Returns OK if the documents that the record names exist and match their digests.
  absl::Status CheckDocuments(const ImageRow& row) const { return DocumentsOf(row).status(); }

  // Renames layers in every record. `names` returns the pairs (old, new); `then` receives all
  // layers that the records name. No record changes between the two calls. `then` is not called if
  // there is nothing to rename.
  using Names = std::vector<std::pair<Digest, Digest>>;
  absl::Status RenameLayers(absl::FunctionRef<Names()> names,
                            absl::FunctionRef<void(const absl::flat_hash_set<Digest>&)> then)
      ABSL_LOCKS_EXCLUDED(mu_);

  // What the records need from the store.
  struct Needed {
    absl::flat_hash_set<Digest> chains, layers, manifests;
  };
  // Deletes documents that no record names, and damaged records. Returns what the other records
  // need, including the layers of images whose documents are damaged, for the pull that fetches
  // those again.
  absl::StatusOr<Needed> Collect() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Documents {
    std::string manifest, config;
  };
  // Returns kDataLoss if one is missing or damaged.
  absl::StatusOr<Documents> DocumentsOf(const ImageRow& row) const;
  absl::StatusOr<ImageRef> Load(std::string_view reference, std::string_view record) const;
  absl::StatusOr<ImageRef> LoadRow(std::string_view reference, const ImageRow& row) const;
  absl::StatusOr<ImageRef> LoadHeld(std::string_view record) const;
  absl::flat_hash_set<Digest> Layers() const;

  KeyValueStore& kv_;
  absl::Mutex mu_;  // serializes changes of records
};

}  // namespace imagefs
