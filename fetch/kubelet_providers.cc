// SPDX-License-Identifier: Apache-2.0
#include "fetch/kubelet_providers.h"

#include <fnmatch.h>
#include <sys/stat.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cstdlib>

#include "absl/synchronization/notification.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "base/subprocess.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "fetch/go_duration.h"

namespace imagefs {
namespace {

constexpr uint64_t kMaxConfigBytes = 1 << 20;
constexpr size_t kMaxProviders = 64;
constexpr size_t kMaxPatterns = 1024;
constexpr size_t kMaxAnswerBytes = 1 << 20;
constexpr size_t kMaxCached = 1024;
constexpr int kRunners = 4;
constexpr std::string_view kConfigGroup = "kubelet.config.k8s.io/";
constexpr std::string_view kAnswerGroup = "credentialprovider.kubelet.k8s.io/";

bool IsKnownVersion(std::string_view text, std::string_view group) {
  return ConsumePrefix(&text, group) && (text == "v1" || text == "v1beta1" || text == "v1alpha1");
}

// Returns "" if absent.
std::string Scalar(const YAML::Node& node) {
  return node.IsDefined() && node.IsScalar() ? node.Scalar() : std::string();
}

absl::Status Invalid(const std::string& path, std::string_view name, std::string_view what) {
  return absl::InvalidArgumentError(
      StrCat(path, ": credential provider \"", Printable(name), "\" ", what));
}

absl::StatusOr<std::vector<std::string>> Strings(const YAML::Node& node) {
  std::vector<std::string> out;
  if (!node.IsDefined() || node.IsNull()) return out;
  if (!node.IsSequence() || node.size() > kMaxPatterns) {
    return absl::InvalidArgumentError("is not a list of strings");
  }
  for (const YAML::Node& one : node) {
    if (!one.IsScalar()) return absl::InvalidArgumentError("is not a list of strings");
    out.push_back(one.Scalar());
  }
  return out;
}

absl::StatusOr<KubeletProvider> ParseProvider(const YAML::Node& node, const std::string& path) {
  KubeletProvider out;
  out.name = Scalar(node["name"]);
  const std::string& name = out.name;
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos ||
      name.find(' ') != std::string::npos || name.find('\0') != std::string::npos) {
    return Invalid(path, name, "has no name that a program in the folder of plugins could have");
  }
  absl::StatusOr<std::vector<std::string>> images = Strings(node["matchImages"]);
  if (!images.ok() || images->empty()) return Invalid(path, name, "needs a list matchImages");
  out.match_images = *std::move(images);
  absl::StatusOr<std::vector<std::string>> args = Strings(node["args"]);
  if (!args.ok()) return Invalid(path, name, "has args that are no list of texts");
  out.args = *std::move(args);
  const auto duration = ParseGoDuration(Scalar(node["defaultCacheDuration"]));
  if (!duration) return Invalid(path, name, "needs a defaultCacheDuration like \"12h\"");
  out.default_cache_duration = std::chrono::floor<std::chrono::seconds>(*duration);
  out.api_version = Scalar(node["apiVersion"]);
  if (!IsKnownVersion(out.api_version, kAnswerGroup)) {
    return Invalid(path, name, StrCat("needs an apiVersion like ", kAnswerGroup, "v1"));
  }
  if (const YAML::Node env = node["env"]; env.IsDefined() && !env.IsNull()) {
    if (!env.IsSequence() || env.size() > kMaxPatterns) {
      return Invalid(path, name, "has an env that is not a list of names and values");
    }
    for (const YAML::Node& one : env) {
      const std::string variable = one.IsMap() ? Scalar(one["name"]) : "";
      if (variable.empty() || variable.find('=') != std::string::npos) {
        return Invalid(path, name, "has an env that is not a list of names and values");
      }
      out.environment.push_back(StrCat(variable, "=", Scalar(one["value"])));
    }
  }
  const YAML::Node tokens = node["tokenAttributes"];
  out.needs_service_account =
      tokens.IsDefined() && tokens.IsMap() && Scalar(tokens["requireServiceAccount"]) == "true";
  return out;
}

// HOST, PORT and "/PATH" of an image or pattern, ignoring a scheme.
struct Parts {
  std::string_view host, port, path;
};
Parts PartsOf(std::string_view text) {
  for (std::string_view scheme : {"https://", "http://"}) ConsumePrefix(&text, scheme);
  Parts parts;
  const size_t slash = text.find('/');
  parts.host = text.substr(0, slash);
  if (slash != std::string_view::npos) parts.path = text.substr(slash);
  const size_t colon = parts.host.rfind(':');
  if (colon != std::string_view::npos && parts.host.find(']', colon) == std::string_view::npos) {
    parts.port = parts.host.substr(colon + 1);
    parts.host = parts.host.substr(0, colon);
  }
  return parts;
}

// Longer paths first, then fewer wildcards, then longer patterns.
bool MoreSpecific(const std::string& a, const std::string& b) {
  const auto rank = [](const std::string& text) {
    const auto wild = std::count_if(text.begin(), text.end(),
                                    [](char c) { return c == '*' || c == '?' || c == '['; });
    return std::make_tuple(PartsOf(text).path.size(), -wild, text.size());
  };
  return rank(a) > rank(b);
}

std::string ImageOf(const Reference& reference) {
  return StrCat(reference.host, "/", reference.repository);
}

std::string CacheKey(const KubeletProvider& provider, std::string_view scope,
                     std::string_view what) {
  return StrCat(provider.name, "\n", scope, "\n", what);
}

std::string RegistryOf(const std::string& image) { return image.substr(0, image.find('/')); }

}  // namespace

bool MatchesImage(std::string_view pattern, std::string_view image) {
  const Parts want = PartsOf(pattern), have = PartsOf(image);
  if (want.port != have.port || !have.path.starts_with(want.path)) return false;
  const std::vector<std::string_view> globs = Split(want.host, '.');
  const std::vector<std::string_view> labels = Split(have.host, '.');
  if (globs.size() != labels.size()) return false;
  for (size_t i = 0; i < globs.size(); ++i) {
    if (fnmatch(std::string(globs[i]).c_str(), std::string(labels[i]).c_str(), 0) != 0) {
      return false;
    }
  }
  return true;
}

absl::StatusOr<std::vector<KubeletProvider>> ParseKubeletProviders(const std::string& text,
                                                                   const std::string& path) {
  std::vector<KubeletProvider> out;
  try {
    const YAML::Node root = YAML::Load(text);
    if (!root.IsMap() || Scalar(root["kind"]) != "CredentialProviderConfig" ||
        !IsKnownVersion(Scalar(root["apiVersion"]), kConfigGroup)) {
      return absl::InvalidArgumentError(
          StrCat(path, ": this is not a CredentialProviderConfig of ", kConfigGroup, "v1"));
    }
    const YAML::Node providers = root["providers"];
    if (!providers.IsDefined() || !providers.IsSequence() || providers.size() == 0 ||
        providers.size() > kMaxProviders) {
      return absl::InvalidArgumentError(StrCat(path, ": it needs a list of providers"));
    }
    for (const YAML::Node& node : providers) {
      if (!node.IsMap()) return Invalid(path, "", "is not a mapping");
      IMAGEFS_ASSIGN_OR_RETURN(KubeletProvider provider, ParseProvider(node, path));
      for (const KubeletProvider& other : out) {
        if (other.name == provider.name) return Invalid(path, provider.name, "is there twice");
      }
      out.push_back(std::move(provider));
    }
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(
        StrCat(path, ":", error.mark.line + 1, ": this is not YAML: ", Printable(error.msg)));
  }
  return out;
}

KubeletProviders::KubeletProviders(Options options)
    : options_([&options] {
        if (!options.now) options.now = [] { return std::chrono::steady_clock::now(); };
        return std::move(options);
      }()),
      providers_(std::make_shared<const std::vector<KubeletProvider>>()),
      runners_(ThreadRole::kProviders, kRunners) {}

KubeletProviders::~KubeletProviders() = default;

uint64_t KubeletProviders::runs() const {
  absl::MutexLock lock(&mu_);
  return runs_;
}

KubeletProviders::ProviderList KubeletProviders::Providers() {
  const absl::StatusOr<struct stat> found = StatPath(options_.config);
  std::string state = found.ok() ? StrCat(found->st_ino, " ", found->st_size, " ",
                                          found->st_mtim.tv_sec, " ", found->st_mtim.tv_nsec)
                                 : std::string(found.status().message());
  {
    absl::MutexLock lock(&mu_);
    if (state == read_) return providers_;
  }
  std::vector<KubeletProvider> list;
  absl::StatusOr<std::string> text = ReadFile(options_.config, kMaxConfigBytes);
  absl::Status failure = text.status();
  if (text.ok()) {
    absl::StatusOr<std::vector<KubeletProvider>> parsed =
        ParseKubeletProviders(*text, options_.config);
    failure = parsed.status();
    if (parsed.ok()) list = *std::move(parsed);
  }
  if (!failure.ok()) LogWarning("kubelet_config_unusable cause=", failure.message());
  for (const KubeletProvider& provider : list) {
    if (!provider.needs_service_account) continue;
    LogWarning("kubelet_provider_unusable name=", provider.name,
               " cause=it needs a pod's service account, which only the kubelet has");
  }
  std::erase_if(list, [](const KubeletProvider& p) { return p.needs_service_account; });
  absl::MutexLock lock(&mu_);
  read_ = std::move(state);
  providers_ = std::make_shared<const std::vector<KubeletProvider>>(std::move(list));
  cache_.clear();
  return providers_;
}

std::vector<Credential> KubeletProviders::Find(const Reference& reference,
                                               const Credential* refused) {
  std::vector<Credential> out;
  const std::string image = ImageOf(reference);
  const ProviderList providers = Providers();
  for (const KubeletProvider& provider : *providers) {
    const bool asked =
        std::any_of(provider.match_images.begin(), provider.match_images.end(),
                    [&](const std::string& pattern) { return MatchesImage(pattern, image); });
    if (!asked) continue;
    AnswerRef answer = FromCache(provider, image, refused);
    if (answer == nullptr) {
      absl::StatusOr<AnswerRef> fresh = Ask(provider, image);
      if (!fresh.ok()) {
        LogWarning("kubelet_provider_failed name=", provider.name, " image=", Printable(image),
                   " cause=", fresh.status().message());
        continue;
      }
      answer = *std::move(fresh);
    }
    for (const auto& [pattern, credential] : answer->auth) {
      if (MatchesImage(pattern, image)) out.push_back(credential);
    }
  }
  return out;
}

KubeletProviders::AnswerRef KubeletProviders::FromCache(const KubeletProvider& provider,
                                                        const std::string& image,
                                                        const Credential* refused) {
  const std::string fingerprint = refused == nullptr ? "" : refused->Fingerprint();
  absl::MutexLock lock(&mu_);
  for (const std::string& key :
       {CacheKey(provider, "image", image), CacheKey(provider, "registry", RegistryOf(image)),
        CacheKey(provider, "global", "")}) {
    const auto it = cache_.find(key);
    if (it == cache_.end()) continue;
    const auto& auth = it->second.answer->auth;
    const bool stale =
        it->second.until <= options_.now() ||
        (refused != nullptr && std::any_of(auth.begin(), auth.end(), [&](const auto& entry) {
           return entry.second.Fingerprint() == fingerprint;
         }));
    if (!stale) return it->second.answer;
    cache_.erase(it);
  }
  return nullptr;
}

absl::StatusOr<KubeletProviders::AnswerRef> KubeletProviders::Ask(const KubeletProvider& provider,
                                                                  const std::string& image) {
  absl::Notification ended;
  absl::StatusOr<AnswerRef> result = absl::UnknownError("not asked");
  FlightTable<AnswerRef>::Caller caller;
  caller.done = [&](absl::StatusOr<AnswerRef> answer) {
    result = std::move(answer);
    ended.Notify();
  };
  // The caller stays until the flight ends, which keeps the task's references valid.
  caller.start = [this, provider, image](FlightTable<AnswerRef>::Context context) {
    runners_.Submit([this, provider, image, context = std::move(context)] {
      context.finish(Run(provider, image));
    });
  };
  flights_.Join(CacheKey(provider, "image", image), std::move(caller));
  MayBlock("waiting for a credential provider");
  ended.WaitForNotification();
  return result;
}

absl::StatusOr<KubeletProviders::AnswerRef> KubeletProviders::Run(const KubeletProvider& provider,
                                                                  const std::string& image) {
  JsonWriter request;
  request.BeginObject()
      .Member("apiVersion", provider.api_version)
      .Member("kind", "CredentialProviderRequest")
      .Member("image", image)
      .EndObject();
  const std::string input = request.Take();
  ProgramCall call;
  call.argv = {StrCat(options_.bin_dir, "/", provider.name)};
  call.argv.insert(call.argv.end(), provider.args.begin(), provider.args.end());
  call.environment = provider.environment;
  call.input = input;
  call.timeout = options_.timeout;
  call.max_output_bytes = kMaxAnswerBytes;
  {
    absl::MutexLock lock(&mu_);
    ++runs_;
  }
  IMAGEFS_ASSIGN_OR_RETURN(ProgramResult result, RunProgram(call));
  const WipeAtEnd wipe(result.output);
  if (!result.succeeded()) return absl::FailedPreconditionError(result.Complaint());
  absl::StatusOr<AnswerRef> answer = ParseAnswer(result.output, provider);
  WipeStack();  // it was parsed here
  if (answer.ok()) Keep(provider, image, *answer);
  return answer;
}

absl::StatusOr<KubeletProviders::AnswerRef> KubeletProviders::ParseAnswer(
    const std::string& text, const KubeletProvider& provider) {
  // A parser's message may quote a secret.
  const absl::StatusOr<Json> json = Json::Parse(text);
  if (!json.ok() || !json->is_object() || json->StringOr("kind") != "CredentialProviderResponse") {
    return absl::InvalidArgumentError("its answer is not a CredentialProviderResponse");
  }
  if (json->StringOr("apiVersion") != provider.api_version) {
    return absl::InvalidArgumentError(
        StrCat("its answer has not the apiVersion ", provider.api_version));
  }
  auto out = std::make_shared<Answer>();
  const std::string scope = json->StringOr("cacheKeyType");
  if (scope == "Registry") {
    out->scope = Answer::Scope::kRegistry;
  } else if (scope == "Global") {
    out->scope = Answer::Scope::kGlobal;
  } else if (scope != "Image") {
    return absl::InvalidArgumentError("its answer has a cacheKeyType that is not known");
  }
  out->keep = provider.default_cache_duration;
  if (const Json keep = (*json)["cacheDuration"]; keep.exists() && !keep.is_null()) {
    const auto parsed = ParseGoDuration(keep.string().value_or(""));
    if (!parsed) return absl::InvalidArgumentError("its answer has a cacheDuration that is none");
    out->keep = std::chrono::floor<std::chrono::seconds>(*parsed);
  }
  for (const auto& [pattern, entry] : (*json)["auth"].members()) {
    Credential credential;
    credential.username = entry.StringOr("username");
    credential.password = entry.SecretOf("password");
    if (!credential.empty()) out->auth.emplace_back(pattern, std::move(credential));
  }
  std::stable_sort(out->auth.begin(), out->auth.end(),
                   [](const auto& a, const auto& b) { return MoreSpecific(a.first, b.first); });
  return AnswerRef(std::move(out));
}

void KubeletProviders::Keep(const KubeletProvider& provider, const std::string& image,
                            const AnswerRef& answer) {
  if (answer->keep.count() <= 0) return;
  std::string key = CacheKey(provider, "image", image);
  if (answer->scope == Answer::Scope::kRegistry) {
    key = CacheKey(provider, "registry", RegistryOf(image));
  } else if (answer->scope == Answer::Scope::kGlobal) {
    key = CacheKey(provider, "global", "");
  }
  absl::MutexLock lock(&mu_);
  const auto now = options_.now();
  std::erase_if(cache_, [now](const auto& entry) { return entry.second.until <= now; });
  if (cache_.size() >= kMaxCached) cache_.clear();
  cache_[key] = {answer, now + answer->keep};
}

}  // namespace imagefs
