// SPDX-License-Identifier: Apache-2.0
// The files that blobs are downloaded to, <root>/blobs/NAME.BOOT, while they are in use. A failed
// download is resumed only within the same boot of the machine: a file left by an earlier boot may
// have holes that read as zeros.
//
// Thread-safe. Blocks on the disk.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "cache/download_file.h"
#include "cache/layer_entry.h"
#include "cache/store_space.h"

namespace imagefs {

class Downloads {
 public:
  // REQUIRES: `directory` exists. `boot_id` identifies this boot of the machine.
  // `space` may be null, and must outlive the files.
  Downloads(std::string directory, const std::string& boot_id, StoreSpace* space = nullptr)
      : directory_(std::move(directory)), suffix_("." + boot_id.substr(0, 8)), space_(space) {}

  // Opens the file of that name and size: the one already open, the one left by an earlier download
  // of this boot, or an empty one.
  absl::StatusOr<std::shared_ptr<DownloadFile>> Open(const std::string& name, uint64_t size)
      ABSL_LOCKS_EXCLUDED(mu_);
  // The download has ended. With `keep_file`, the next one resumes from what was received.
  void End(const std::string& name, bool keep_file) ABSL_LOCKS_EXCLUDED(mu_);

  // Records whose credentials a download uses, until it ends.
  void NoteFetch(const std::string& name, BlobFetch fetch) ABSL_LOCKS_EXCLUDED(mu_);
  BlobFetch FetchOf(const std::string& name) const ABSL_LOCKS_EXCLUDED(mu_);

  // Names of files that no process of this boot will resume.
  std::vector<std::string> Strays() const;
  // What ended downloads left, to be resumed.
  struct Partial {
    std::string name;
    uint64_t bytes = 0;   // on the disk
    int64_t written = 0;  // Unix seconds: last
  };
  std::vector<Partial> Partials() const ABSL_LOCKS_EXCLUDED(mu_);
  // What ended downloads left of a blob, for all of its registries.
  uint64_t BytesOf(const Digest& blob) const ABSL_LOCKS_EXCLUDED(mu_);
  // Returns the bytes freed; 0 if the download has begun again.
  uint64_t RemovePartial(const Partial& partial) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  std::string PathOf(const std::string& name) const;

  const std::string directory_, suffix_;
  StoreSpace* const space_;
  mutable absl::Mutex mu_;
  absl::flat_hash_map<std::string, std::weak_ptr<DownloadFile>> open_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<std::string, BlobFetch> fetches_ ABSL_GUARDED_BY(mu_);
};

}  // namespace imagefs
