// Runs the kubelet's credential-provider plugins as the kubelet does: programs that print
// credentials for an image, named by a CredentialProviderConfig (YAML or JSON;
// kubelet.config.k8s.io v1, v1beta1 or v1alpha1). What they ask for that only the kubelet has (a
// pod's service account) they do not get.
//
// Thread-safe. The only user of yaml-cpp is this header's .cc.
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
  std::string name;  // of the program in the folder of plugins
  std::vector<std::string> match_images;
  std::chrono::seconds default_cache_duration{0};
  std::string api_version;  // "credentialprovider.kubelet.k8s.io/v1"
  std::vector<std::string> args;
  std::vector<std::string> environment;  // "NAME=value"
  bool needs_service_account = false;    // cannot be run by us
};

// Refuses what the kubelet refuses, with the path in the message; members that are not known are
// passed over, since newer kubelets have more. Pure.
absl::StatusOr<std::vector<KubeletProvider>> ParseKubeletProviders(const std::string& text,
                                                                   const std::string& path);

// "1h30m", "500ms", "0" as Go writes durations, rounded down to seconds.
std::optional<std::chrono::seconds> ParseGoDuration(std::string_view text);

// Whether an image (HOST[:PORT]/PATH) is what `pattern` means: as many labels in the host, each
// matching as a glob; the same port or none in both; a path that begins with the pattern's. Pure.
bool MatchesImage(std::string_view pattern, std::string_view image);

class KubeletProviders {
 public:
  struct Options {
    std::string config;   // the file; read again when it changes
    std::string bin_dir;  // of the plugins
    std::chrono::seconds timeout{30};
    std::function<std::chrono::steady_clock::time_point()> now;  // null = the real clock
  };
  explicit KubeletProviders(Options options);
  // Waits for plugins that run.
  ~KubeletProviders();

  // Credentials for the reference, best first: by the order of the providers, and of one provider
  // the most specific pattern first. Blocks while plugins run; equal questions at one time run a
  // plugin once. What fails is logged and left out. With `refused`, answers that gave it are
  // forgotten first.
  std::vector<Credential> Find(const Reference& reference, const Credential* refused);

  // Plugins run so far.
  uint64_t runs() const;

 private:
  // What a plugin said: patterns with their credentials, the most specific first.
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
  std::string read_ ABSL_GUARDED_BY(mu_);  // which state of the file `providers_` is
  ProviderList providers_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, Cached> cache_ ABSL_GUARDED_BY(mu_);
  uint64_t runs_ ABSL_GUARDED_BY(mu_) = 0;
  FlightTable<AnswerRef> flights_{"kubelet_provider"};
  Executor runners_;  // last: its threads are gone before anything above
};

}  // namespace imagefs
