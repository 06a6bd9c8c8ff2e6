// The credentials that this machine has for a registry, from wherever it may have them. In order:
//   1. what the kubelet passed through the CRI proxy (snap/cri_proxy.h) for this very reference,
//      then for others of the same repository; kept in memory only;
//   2. the kubelet's credential-provider plugins (fetch/kubelet_providers.h);
//   3. the docker and containers files of the daemon's own user (fetch/credentials.h).
// Nothing of it is stored or logged. Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "fetch/credentials.h"
#include "fetch/kubelet_providers.h"
#include "fetch/source.h"
#include "image/reference.h"

namespace imagefs {

class NodeCredentials : public std::enable_shared_from_this<NodeCredentials> {
 public:
  struct Options {
    KubeletProviders::Options kubelet;  // `config` "" = no plugins
    CredentialOptions files;
  };
  static std::shared_ptr<NodeCredentials> Create(Options options);

  // With what to ask the reference's registry, and how to get another credential when that is
  // refused. Anonymous when there is none. Blocks while plugins and helpers run: for an executor's
  // thread. What fails is logged and left out.
  SourceFactory::Access AccessFor(const Reference& reference);

  // The same without asking plugins before a registry has refused what else there is: for callers
  // that must not wait for them.
  SourceFactory::Access QuickAccessFor(const Reference& reference);
  CredentialRefresh RefreshFor(const Reference& reference);

  // The best credential that is not `refused`; empty when there is none. `trouble`, null = not
  // wanted, is told why files or helpers gave none. Blocks as AccessFor.
  Credential Find(const Reference& reference, const Credential* refused,
                  std::string* trouble = nullptr);

  // Something that `image` was pulled with; an empty credential is passed over. At most
  // kMaxReferences references with kMaxPerReference credentials each, the last used ones.
  void Remember(const Reference& image, Credential credential);
  // That pull has failed: takes back what it brought.
  void TakeBack(const Reference& image, const Credential& credential);
  // That pull has brought the image `id`, by which it may be removed.
  void RememberId(const Reference& image, std::string_view id);
  // The image, a reference or an id, is gone.
  void Forget(std::string_view image);

  struct Counters {
    uint64_t remembered = 0;  // references that have a credential now
    uint64_t plugin_runs = 0;
    uint64_t renewals = 0;  // asked because a registry refused a credential
    uint64_t renewed = 0;   // of these, those that found another
  };
  Counters counters() const;

  static constexpr size_t kMaxReferences = 1024;
  static constexpr size_t kMaxPerReference = 4;

 private:
  explicit NodeCredentials(Options options);

  // One image that was pulled.
  struct Pulled {
    Reference reference;
    std::string key;
    std::string id;                       // "" while not known
    std::vector<Credential> credentials;  // the last used first; never empty
  };
  static std::string KeyOf(const Reference& reference) { return reference.ToString(); }
  Credential InFiles(const Reference& reference, std::string* trouble) const;
  std::vector<Credential> Remembered(const Reference& reference);
  void Drop(const Reference& reference, const Credential& refused);
  std::list<Pulled>::iterator FindLocked(const std::string& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  const std::unique_ptr<KubeletProviders> kubelet_;  // null: none configured
  mutable absl::Mutex mu_;
  // The last used first. Small enough to be searched.
  std::list<Pulled> pulled_ ABSL_GUARDED_BY(mu_);
  uint64_t renewals_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t renewed_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace imagefs
