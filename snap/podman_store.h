// SPDX-License-Identifier: Apache-2.0
// The images given to podman and CRI-O (docs/podman.md). Each has names, is held in the image
// store, and has its merged tree mounted through fs/mount_table.h. A read-only store in the format
// of containers/storage lists them (snap/podman_files.h).
//
// Names are durable: acknowledged ones return after a restart, without network access if their
// layers are local. Thread-safe. Changes are serialized and block on local disk and mount(2). Root
// only.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/executor.h"
#include "base/thread_role.h"
#include "cache/image_store.h"
#include "fs/key_gate.h"
#include "snap/image_uses.h"
#include "snap/podman_files.h"

namespace imagefs {

class PodmanStore {
 public:
  struct Deps {
    ImageStore& store;
    ImageUses& uses;
    // Whose image descriptions are trusted: podman shares layers by what images claim.
    TrustOf trust_of = TrustTrusted;
  };
  // `directory`: of the store that podman reads. Becomes an owner of `uses`; when that recovers,
  // the images found are mounted and published. Images whose layers were lost in a crash of the
  // machine are fetched again once the daemon serves.
  static absl::StatusOr<std::unique_ptr<PodmanStore>> Open(std::string directory, Deps deps);
  // REQUIRES: every call of Fetch and Add has ended, and no Use of an image exists.
  ~PodmanStore();

  // Makes an image mountable, and holds it while the Use exists or the image has a name.
  FlightTicket Fetch(ImageRef image, std::shared_ptr<ImageSource> source, Priority priority,
                     ImageUses::UseDone done) {
    return images_->AcquireFound(std::move(image), std::move(source), priority, std::move(done));
  }

  struct Entry {
    std::string name;
    std::string reference;  // as given to Add
    Digest manifest;
    ImageRef image;  // null: the store's record of it is damaged
    ChainRef chain;  // null: its layers are not local, so podman does not see it
    int64_t added_unix = 0;
  };
  // Gives an image a name (see PodmanName), replacing the image that had it. `reference`: where to
  // fetch its bytes.
  absl::StatusOr<Entry> Add(const std::string& name, const std::string& reference,
                            const ImageUses::Use& fetched);
  // Removes names; images without names are removed from the store. A word is a name or, if no such
  // name exists, the reference that was given to Add. Returns kNotFound, without any change, if
  // some word is neither. Returns the number of bytes freed.
  absl::StatusOr<uint64_t> Drop(const std::vector<std::string>& words);
  std::vector<Entry> List() const;
  // Returns the image of that name if it can be presented from local data alone, otherwise null.
  ImageRef Find(const std::string& name, const Platform& platform) const;

  IndexTrust TrustFor(const Reference& reference) const { return deps_.trust_of(reference); }

  // Call before the process ends. Unpublishes the images that need this process. With `hide`,
  // unpublishes all and unmounts the trees that no container uses. The names stay.
  void Leave(bool hide);

  const std::string& directory() const { return files_->directory(); }

 private:
  struct Name {
    std::string reference;
    Digest manifest;
    int64_t added_unix = 0;
  };
  using Trees = std::map<Digest, ImageUses::Tree>;
  using Names = std::map<std::string, Name>;

  explicit PodmanStore(Deps deps) : deps_(std::move(deps)) {}
  absl::StatusOr<Names> LoadNames() const;
  void Recovered();
  // REQUIRES for all functions named ...GateLocked: the key of gate_ is held.
  absl::Status PutNameGateLocked(const std::string& name, const Name* record);
  // Mounts and publishes the images that have names; with `leaving`, publishes only those that are
  // mounted and do not need this process.
  absl::Status PublishGateLocked(bool leaving = false);
  std::vector<PodmanImage> ImagesToPublish(bool leaving) const;
  Entry EntryLocked(const std::string& name, const Name& record) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);
  std::vector<std::string> NamesOf(const std::vector<std::string>& words,
                                   std::string* unknown) const;
  void FetchAgain(const Entry& entry);

  const Deps deps_;
  std::unique_ptr<PodmanFiles> files_;  // guarded by gate_, except for its directory
  KeyGate gate_;                        // one key, which serializes changes

  mutable absl::Mutex mu_;
  Names names_ ABSL_GUARDED_BY(mu_);
  // By the ChainID that images claim, like podman's layers; changed only under gate_.
  Trees trees_ ABSL_GUARDED_BY(mu_);
  bool left_ ABSL_GUARDED_BY(mu_) = false;

  // Its tasks use the other members.
  std::unique_ptr<Executor> executor_ = std::make_unique<Executor>(ThreadRole::kPodman, 1);
  std::unique_ptr<ImageUses::Owner> images_;
};

}  // namespace imagefs
