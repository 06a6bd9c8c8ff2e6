// SPDX-License-Identifier: Apache-2.0
// The credentials that this machine has for a registry, from all of its sources. In order:
//   1. those that the kubelet passed through the CRI proxy (snap/cri_proxy.h) for this very
//      reference, then for others of the same repository; kept in memory only;
//   2. the kubelet's credential-provider plugins (fetch/kubelet_providers.h);
//   3. the docker and containers files of the daemon's own user (fetch/credentials.h).
// Nothing is logged or written to a disk. What the kubelet passed can be kept in memory that
// outlives this process, so that a restart does not make images that are being filled unreadable.
// Thread-safe.
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
#include "base/kept_memory.h"
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

  // Restores what is in `memory`, and keeps there from now on what the kubelet passes: the most
  // recently used that fit. Call at most once, before other threads use this object.
  void KeepIn(std::unique_ptr<KeptMemory> memory);

  // Returns a credential for the reference's registry, and the means to get another one if that is
  // rejected. Anonymous if there is none. Blocks while plugins and helpers run: call on an
  // executor's thread. Failures are logged and skipped.
  SourceFactory::Access AccessFor(const Reference& reference);

  // Like AccessFor, but does not run plugins until a registry has rejected the other credentials:
  // for callers that must not wait for plugins.
  SourceFactory::Access QuickAccessFor(const Reference& reference);
  CredentialRefresh RefreshFor(const Reference& reference);
  // Like AccessFor, without what the kubelet passed: that belongs to a pod, and is for its pulls
  // only.
  SourceFactory::Access OwnAccessFor(const Reference& reference);

  // Returns the best credential other than `refused`; empty if there is none. `trouble`, if not
  // null, is set to the reason why files or helpers yielded none. Blocks like AccessFor.
  Credential Find(const Reference& reference, const Credential* refused,
                  std::string* trouble = nullptr);
  // Like Find, without what the kubelet passed.
  Credential FindOwn(const Reference& reference, const Credential* refused,
                     std::string* trouble = nullptr);

  // Remembers a credential that `image` was pulled with; ignores an empty one. Keeps the most
  // recently used kMaxReferences references with kMaxPerReference credentials each.
  void Remember(const Reference& image, Credential credential);
  // The pull failed: forgets its credential.
  void TakeBack(const Reference& image, const Credential& credential);
  // The pull produced the image `id`, by which it may be removed.
  void RememberId(const Reference& image, std::string_view id);
  // The image, given as a reference or an id, has been removed.
  void Forget(std::string_view image);

  struct Counters {
    uint64_t remembered = 0;  // references that currently have a credential
    uint64_t plugin_runs = 0;
    uint64_t renewals = 0;  // requested because a registry rejected a credential
    uint64_t renewed = 0;   // of these, the successful ones
  };
  Counters counters() const;

  static constexpr size_t kMaxReferences = 1024;
  static constexpr size_t kMaxPerReference = 4;

 private:
  using Finder = Credential (NodeCredentials::*)(const Reference&, const Credential* refused,
                                                 std::string* trouble);
  explicit NodeCredentials(Options options);
  CredentialRefresh RefreshBy(Finder find, const Reference& reference);

  // A pulled image.
  struct Pulled {
    Reference reference;
    std::string key;
    std::string id;                       // "" if unknown
    std::vector<Credential> credentials;  // most recently used first; never empty
  };
  static std::string KeyOf(const Reference& reference) { return reference.ToString(); }
  Credential InFiles(const Reference& reference, std::string* trouble) const;
  std::vector<Credential> Remembered(const Reference& reference);
  void Drop(const Reference& reference, const Credential& refused);
  void SaveLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::list<Pulled>::iterator FindLocked(const std::string& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  const std::unique_ptr<KubeletProviders> kubelet_;  // null: none configured
  mutable absl::Mutex mu_;
  // Most recently used first. Small enough for linear search.
  std::list<Pulled> pulled_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<KeptMemory> memory_ ABSL_GUARDED_BY(mu_);  // null: not kept
  uint64_t renewals_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t renewed_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace imagefs
