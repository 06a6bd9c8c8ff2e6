// SPDX-License-Identifier: Apache-2.0
// Whole compressed blobs on their way to somebody else's store (docs/containerd.md, "The content
// store"), as files <root>/blobs/kept-<hex>.BOOT. A blob gets here when its layer was made from it
// (Offer), or by a fetch in the background (Fetch). It is a waypoint, not a cache: the owner drops
// each blob once it was handed on. A file of an earlier boot, which may have holes, is a stray like
// other download files.
//
// Uses at most Options::most_bytes and one blob more, and nothing when little space is left. What
// is refused is fetched again later; it harms no layer.
//
// Thread-safe. Blocks on the disk, except for what FillClient demands.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/cancel.h"
#include "base/digest.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "cache/download_file.h"
#include "cache/fill_scheduler.h"
#include "fetch/source.h"

namespace imagefs {

class KeptBlobs final : public FillClient, public std::enable_shared_from_this<KeptBlobs> {
 public:
  struct Options {
    std::string directory;  // exists
    std::string boot_id;
    uint64_t most_bytes = uint64_t{8} << 30;
    uint64_t spare_bytes = uint64_t{1} << 30;  // of free space, or a twentieth of a small disk
  };
  // Finds what an earlier process of this boot left. `scheduler` must outlive all fetches.
  static std::shared_ptr<KeptBlobs> Open(Options options, FillScheduler& scheduler);

  // Removes what a process that kept blobs left.
  static void RemoveAll(const std::string& directory);

  // The file `path` has the whole blob, verified, and is never written to again. It gets a second
  // name here. Failures are logged.
  void Offer(const Digest& blob, const std::string& path) ABSL_LOCKS_EXCLUDED(mu_);
  // Replaces what runs after a blob was offered; returns when the former one does not run any more.
  void OnOffer(std::function<void()> callback) ABSL_LOCKS_EXCLUDED(callback_mu_);

  struct Kept {
    Digest blob;
    uint64_t bytes = 0;
    Moment since;
  };
  std::vector<Kept> List() const ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<Fd> Read(const Digest& blob) const ABSL_LOCKS_EXCLUDED(mu_);  // or kNotFound
  void Drop(const Digest& blob) ABSL_LOCKS_EXCLUDED(mu_);
  // Drops everything if little space is left on the disk.
  void MakeRoom() ABSL_LOCKS_EXCLUDED(mu_);

  // Fetches a whole blob at background priority, verifies it and keeps it. A failed fetch resumes
  // where it stopped. `done` runs exactly once, on any thread, and must not block. REQUIRES: no
  // other fetch is running.
  using Done = absl::AnyInvocable<void(absl::Status)>;
  void Fetch(Descriptor blob, std::shared_ptr<ImageSource> source, Done done)
      ABSL_LOCKS_EXCLUDED(mu_);
  void Cancel() override ABSL_LOCKS_EXCLUDED(mu_);  // the fetch ends with kCancelled
  // Removes the parts of blobs that failed fetches left.
  void DropParts() ABSL_LOCKS_EXCLUDED(mu_);

  std::optional<Want> MostUrgent(Moment now, Moment& look_again) override;
  void Launch(Priority priority, FillSlot slot) override;

 private:
  struct Running {
    Descriptor blob;
    std::shared_ptr<ImageSource> source;
    std::shared_ptr<DownloadFile> file;
    Done done;
    CancelSource cancel;
    // Guarded by mu_: a request is in flight, or the whole is being checked; Cancel was called.
    bool busy = false, cancelled = false;
  };
  KeptBlobs(Options options, FillScheduler& scheduler)
      : options_(std::move(options)), scheduler_(scheduler) {}
  void FindExisting() ABSL_LOCKS_EXCLUDED(mu_);
  std::string PathOf(const Digest& blob) const;
  std::string PartOf(const Digest& blob) const;
  absl::Status CheckRoom(uint64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool DiskIsFull(uint64_t more) const;
  void AddLocked(const Digest& blob, uint64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnPart(const std::shared_ptr<Running>& running, const absl::Status& status);
  absl::Status CheckWhole(const Running& running) ABSL_LOCKS_EXCLUDED(mu_);
  void Finish(const std::shared_ptr<Running>& running, const absl::Status& status)
      ABSL_LOCKS_EXCLUDED(mu_);

  const Options options_;
  FillScheduler& scheduler_;
  absl::Mutex callback_mu_;  // held while the callback runs
  std::function<void()> callback_ ABSL_GUARDED_BY(callback_mu_);
  mutable absl::Mutex mu_;  // never held over I/O, which the scheduler's thread would wait for
  absl::flat_hash_map<Digest, Kept> kept_ ABSL_GUARDED_BY(mu_);
  uint64_t bytes_ ABSL_GUARDED_BY(mu_) = 0;
  std::shared_ptr<Running> running_ ABSL_GUARDED_BY(mu_);
};

}  // namespace imagefs
