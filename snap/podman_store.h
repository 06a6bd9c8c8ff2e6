// The images that podman and CRI-O are given (docs/podman.md): each has names, is held in the image
// store, and its merged tree is shown as fs/mount_table.h shows chains. A read-only store in
// containers/storage's format names them (snap/podman_files.h).
//
// Names are durable: what was acknowledged is there again after a restart, shown without network
// where its layers are here. Thread-safe; changes are serialised and block on local disk and
// mount(2). Root only.
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
    // Whose descriptions of an image are believed: podman shares layers by what images claim.
    TrustOf trust_of = TrustTrusted;
  };
  // `directory`: of the store that podman reads. Becomes an owner of `uses`; when that recovers,
  // what was found is shown and published. Images whose layers a crash of the machine took are
  // fetched again once the daemon serves.
  static absl::StatusOr<std::unique_ptr<PodmanStore>> Open(std::string directory, Deps deps);
  // REQUIRES: every call of Bring and Add has ended, and no Use of an image is left.
  ~PodmanStore();

  // Makes an image showable, and holds it while the Use lives or it has a name.
  FlightTicket Bring(ImageRef image, std::shared_ptr<ImageSource> source, Priority priority,
                     ImageUses::UseDone done) {
    return images_->AcquireFound(std::move(image), std::move(source), priority, std::move(done));
  }

  struct Entry {
    std::string name;
    std::string reference;  // what it was given for
    Digest manifest;
    ImageRef image;  // null: the store's record of it is damaged
    ChainRef chain;  // null: its layers are not here, so that podman is not told of it
    int64_t added_unix = 0;
  };
  // Gives an image a name (see PodmanName), which another one may lose by it. `reference`: where
  // its bytes come from.
  absl::StatusOr<Entry> Add(const std::string& name, const std::string& reference,
                            const ImageUses::Use& brought);
  // Takes names away; images without names go from the store. A word is a name or, where there is
  // no such name, the reference that names were given for. kNotFound, and no change, when one is
  // neither. Returns the bytes given back.
  absl::StatusOr<uint64_t> Drop(const std::vector<std::string>& words);
  std::vector<Entry> List() const;
  // Where that name's image can be shown at once, with what is here; else null.
  ImageRef Find(const std::string& name, const Platform& platform) const;

  IndexTrust TrustFor(const Reference& reference) const { return deps_.trust_of(reference); }

  // Before the process ends: what needs it for its bytes is published no longer. With `hide`
  // nothing is, and the trees are unmounted where no container uses them. The names stay.
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
  // REQUIRES, of those that end in GateLocked: the key of gate_ is held.
  absl::Status PutNameGateLocked(const std::string& name, const Name* record);
  // Shows and publishes what has a name; with `leaving`, only what is shown and does not need this
  // process.
  absl::Status PublishGateLocked(bool leaving = false);
  std::vector<PodmanImage> ImagesToPublish(bool leaving) const;
  Entry EntryLocked(const std::string& name, const Name& record) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);
  std::vector<std::string> NamesOf(const std::vector<std::string>& words,
                                   std::string* unknown) const;
  void BringAgain(const Entry& entry);

  const Deps deps_;
  std::unique_ptr<PodmanFiles> files_;  // guarded by gate_, but for its directory
  KeyGate gate_;                        // one key: changes one after the other

  mutable absl::Mutex mu_;
  Names names_ ABSL_GUARDED_BY(mu_);
  // By the ChainID that images claim, as podman's layers are; changed under gate_ only.
  Trees trees_ ABSL_GUARDED_BY(mu_);
  bool left_ ABSL_GUARDED_BY(mu_) = false;

  // What it runs uses the rest.
  std::unique_ptr<Executor> executor_ = std::make_unique<Executor>("podman", 1);
  std::unique_ptr<ImageUses::Owner> images_;
};

}  // namespace imagefs
