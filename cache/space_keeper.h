// SPDX-License-Identifier: Apache-2.0
// Keeps a store within its limits, and says what occupies it. What is given back, in this order,
// until enough is free:
//   1. what ended downloads left, the oldest first;
//   2. layers and trees that no image and nobody in the program needs;
//   3. the data of layers that nobody uses, least recently used first: of one that can be fetched
//      in parts only the data, of any other all of it;
//   4. parts of lazy layers in use, those first that were not read lately; they are fetched again
//      when somebody reads them.
// Never: layers of pinned images, layers that nobody could fetch again (the archive that an image
// came from is gone), what containers and writable mounts wrote, and complete layers in use, which
// the kernel may read without this process.
//
// Thread-safe; one round at a time. Blocks on the disk.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/disk_usage.h"
#include "base/monotonic.h"
#include "cache/chain_store.h"
#include "cache/image_records.h"
#include "cache/layer_store.h"
#include "cache/store_space.h"
#include "cache/store_usage.h"

namespace imagefs {

class SpaceKeeper {
 public:
  struct Options {
    std::string root;
    absl::Duration keep_partial = absl::Hours(24);  // age of what ended downloads left
  };
  struct Deps {
    StoreSpace& space;
    LayerStore& layers;
    ChainStore& chains;
    ImageRecords& records;
    KeyValueStore& kv;
    // Removes what nobody needs. Returns the bytes freed.
    std::function<absl::StatusOr<uint64_t>()> collect;
  };
  SpaceKeeper(Options options, Deps deps) : options_(std::move(options)), deps_(std::move(deps)) {}

  // Measures, removes old downloads, and gives back what exceeds the limits. Logs each change
  // between being within them and not. `pressed`: on behalf of a writer, who does not help when
  // there was nothing to give back a moment ago. `all_held`: who needs a layer holds it. Until
  // then, while mounts of the previous process are taken over, a layer that nobody holds is not
  // unused, and stays.
  void KeepWithin(bool pressed, bool all_held) ABSL_LOCKS_EXCLUDED(mu_);
  // Gives back what `request` names, whatever the limits are.
  absl::StatusOr<PruneResult> Prune(const PruneRequest& request) ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<StoreUsage> Measure() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  // What the images in the records need.
  struct Wanted {
    absl::flat_hash_set<Digest> kept;    // layers that are never given back
    absl::flat_hash_set<Digest> listed;  // layers of listed images
    absl::flat_hash_set<Digest> shared;  // of these, those of several
    absl::flat_hash_set<Digest> held;    // layers of images that a runtime holds
  };
  // Without the listed images `except`.
  absl::StatusOr<Wanted> FindWanted(const std::vector<std::string>& except = {}) const;
  absl::StatusOr<std::vector<std::string>> FindUnusedImages(const std::vector<LayerUse>& layers,
                                                            int64_t before) const;
  // What counts against the limit besides layers.
  struct Folders {
    DiskUsage chains, blobs, database;
    uint64_t unfinished = 0;  // bytes of layers that are being made
  };
  Folders MeasureFolders() const;
  static uint64_t UsedBytes(const std::vector<LayerUse>& layers, const Folders& folders);
  uint64_t RemovePartials(absl::Duration older, uint64_t enough, bool dry_run, uint64_t& count);
  uint64_t EvictUnused(std::vector<LayerUse> layers, const Wanted& wanted, uint64_t enough);
  // Gives back `excess` bytes if possible. Returns how many were.
  uint64_t GiveBack(uint64_t excess, bool all_held) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Note(const StoreSpace::Reading& now, bool spare, bool exhausted)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  const Deps deps_;
  absl::Mutex mu_;  // held during a round
  // A state that is logged when it begins, and when it has been over for a while.
  struct Told {
    bool begun = false;
    Moment over_since = Moment::InfiniteFuture();
    // Returns true if the state is to be logged: as begun, or as ended if `*ended` is set.
    bool Update(bool now, Moment when, bool* ended);
  };
  Told short_ ABSL_GUARDED_BY(mu_), over_ ABSL_GUARDED_BY(mu_);
  Moment exhausted_ ABSL_GUARDED_BY(mu_) = Moment::InfinitePast();  // last
  // Given back since that was last logged.
  uint64_t freed_ ABSL_GUARDED_BY(mu_) = 0, rounds_ ABSL_GUARDED_BY(mu_) = 0;
  Moment freed_told_ ABSL_GUARDED_BY(mu_) = Moment::InfinitePast();
};

}  // namespace imagefs
