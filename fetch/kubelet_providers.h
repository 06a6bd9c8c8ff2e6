// SPDX-License-Identifier: Apache-2.0
// Runs the kubelet's credential-provider plugins the way the kubelet does: programs that print
// credentials for an image, configured by a CredentialProviderConfig (YAML or JSON;
// kubelet.config.k8s.io v1, v1beta1 or v1alpha1). Plugins do not get what only the kubelet has (a
// pod's service account).
//
// Thread-safe. This header's .cc and that of kubelet_config.h use yaml-cpp.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/executor.h"
#include "base/flight.h"
#include "fetch/credentials.h"
#include "image/reference.h"

namespace imagefs {

struct KubeletProvider {
  std::string name;  // file name in the plugin directory
  std::vector<std::string> match_images;
  std::chrono::seconds default_cache_duration{0};
  std::string api_version;  // "credentialprovider.kubelet.k8s.io/v1"
  std::vector<std::string> args;
  std::vector<std::string> environment;  // "NAME=value"
  bool needs_service_account = false;    // not supported
};

// Rejects what the kubelet rejects, with the path in the message. Ignores unknown members, since
// newer kubelets have more. Pure.
absl::StatusOr<std::vector<KubeletProvider>> ParseKubeletProviders(const std::string& text,
                                                                   const std::string& path);

// Returns whether `pattern` matches an image (HOST[:PORT]/PATH): the hosts have the same number of
// labels, each matching as a glob; both have the same port or none; and the image's path begins
// with the pattern's. Pure.
bool MatchesImage(std::string_view pattern, std::string_view image);

class KubeletProviders {
 public:
  struct Options {
    std::string config;   // the file; reloaded when it changes
    std::string bin_dir;  // directory of the plugins
    std::chrono::seconds timeout{30};
    std::function<std::chrono::steady_clock::time_point()> now;  // null = real clock
  };
  explicit KubeletProviders(Options options);
  // Waits for running plugins.
  ~KubeletProviders();

  // Returns credentials for the reference, best first: in the order of the providers, and within
  // one provider the most specific pattern first. Blocks while plugins run; concurrent equal
  // requests run a plugin once. Failures are logged and skipped. If `refused` is not null, cached
  // answers with that credential are dropped first.
  std::vector<Credential> Find(const Reference& reference, const Credential* refused);

  // Number of plugin runs so far.
  uint64_t runs() const;

 private:
  // A plugin's answer: patterns with their credentials, the most specific first.
  struct Answer {
    std::vector<std::pair<std::string, Credential>> auth;
    enum class Scope { kImage, kRegistry, kGlobal } scope = Scope::kImage;
    std::chrono::seconds keep{0};
  };
  using AnswerRef = std::shared_ptr<const Answer>;
  struct Cached {
    AnswerRef answer;
    std::chrono::steady_clock::time_point until;
  };
  using ProviderList = std::shared_ptr<const std::vector<KubeletProvider>>;

  ProviderList Providers();
  AnswerRef FromCache(const KubeletProvider& provider, const std::string& image,
                      const Credential* refused);
  absl::StatusOr<AnswerRef> Ask(const KubeletProvider& provider, const std::string& image);
  absl::StatusOr<AnswerRef> Run(const KubeletProvider& provider, const std::string& image);
  static absl::StatusOr<AnswerRef> ParseAnswer(const std::string& text,
                                               const KubeletProvider& provider);
  void Keep(const KubeletProvider& provider, const std::string& image, const AnswerRef& answer);

  const Options options_;
  mutable absl::Mutex mu_;
  std::string read_ ABSL_GUARDED_BY(mu_);  // the version of the file that `providers_` is from
  ProviderList providers_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, Cached> cache_ ABSL_GUARDED_BY(mu_);
  uint64_t runs_ ABSL_GUARDED_BY(mu_) = 0;
  FlightTable<AnswerRef> flights_{"kubelet_provider"};
  Executor runners_;  // last: its threads end before anything above is destroyed
};

}  // namespace imagefs
