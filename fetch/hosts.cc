// SPDX-License-Identifier: Apache-2.0
#include "fetch/hosts.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <tuple>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "fetch/bounded_table.h"
#include "fetch/host_certificates.h"
#include "fetch/hosts_files.h"
#include "fetch/watched_files.h"

namespace imagefs {
namespace {

using Clock = std::chrono::steady_clock;
using Scheme = HostEndpoint::Scheme;

constexpr uint64_t kMaxFileBytes = 1 << 20;
constexpr size_t kMaxDropIns = 256;
constexpr size_t kMaxListed = 4096;
constexpr std::string_view kHostsToml = "hosts.toml";
constexpr std::string_view kDockerHub = "docker.io", kDockerHubApi = "registry-1.docker.io";

Scheme SchemeOf(std::string_view written, std::string_view host) {
  if (written == "http") return Scheme::kHttp;
  if (written == "https") return Scheme::kHttps;
  return IsLoopbackHost(host) ? Scheme::kEither : Scheme::kHttps;
}

// "HOST:PORT" -> "HOST_PORT_"; "" without a port.
std::string WithUnderscores(std::string_view host) {
  const size_t colon = host.rfind(':');
  if (colon == host.npos || host.ends_with(']')) return "";
  return StrCat(host.substr(0, colon), "_", host.substr(colon + 1), "_");
}

absl::StatusOr<std::string> ReadToml(const std::string& path, WatchedFiles& files) {
  absl::StatusOr<std::string> text = files.Read(path, kMaxFileBytes);
  if (!text.ok() && !absl::IsNotFound(text.status())) return Unreadable(path, text.status());
  return text;
}

absl::Status AddRegistriesConf(const std::string& path, WatchedFiles& files, RegistriesConf& out) {
  const absl::StatusOr<std::string> text = ReadToml(path, files);
  if (absl::IsNotFound(text.status())) return absl::OkStatus();
  IMAGEFS_RETURN_IF_ERROR(text.status());
  IMAGEFS_ASSIGN_OR_RETURN(RegistriesConf conf, ParseRegistriesConf(*text, path));
  MergeRegistriesConf(std::move(conf), out);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> DropIns(const std::string& directory,
                                                 WatchedFiles& files) {
  std::vector<std::string> out;
  if (directory.empty()) return out;
  absl::StatusOr<std::vector<std::string>> names = files.List(directory);
  if (!names.ok()) return Unreadable(directory, names.status());
  for (const std::string& name : *names) {
    std::string path = StrCat(directory, "/", name);
    if (name.ends_with(".conf") && !files.IsDirectory(path)) out.push_back(std::move(path));
  }
  if (out.size() <= kMaxDropIns) return out;
  return absl::FailedPreconditionError(
      StrCat(directory, " has more than ", kMaxDropIns, " files *.conf"));
}

absl::StatusOr<RegistriesConf> LoadRegistriesConf(const HostResolver::Options& options,
                                                  WatchedFiles& files) {
  RegistriesConf out;
  for (const auto& [file, directory] : options.registries_conf) {
    if (!file.empty()) IMAGEFS_RETURN_IF_ERROR(AddRegistriesConf(file, files, out));
    IMAGEFS_ASSIGN_OR_RETURN(const std::vector<std::string> more, DropIns(directory, files));
    for (const std::string& path : more) {
      IMAGEFS_RETURN_IF_ERROR(AddRegistriesConf(path, files, out));
    }
  }
  return out;
}

// Makes the plan for one reference.
class Planner {
 public:
  Planner(const HostResolver::Options& options, const Reference& reference, WatchedFiles& files)
      : options_(options), reference_(reference), files_(files) {}

  // Reads containerd's directories. Returns whether they decide.
  absl::StatusOr<bool> UseHostsToml();
  absl::Status UseRegistriesConf(const RegistriesConf& conf);
  absl::StatusOr<HostPlan> Finish();

 private:
  struct Draft {
    HostEndpoint endpoint;
    TlsSettings tls;
  };

  bool IsItself(std::string_view host) const {
    const std::string lower = ToLower(host);
    return lower == ToLower(reference_.host) || lower == ToLower(reference_.ApiHost());
  }
  std::string ContainerdDirectory();
  absl::StatusOr<Draft> FromHost(const HostsToml::Host& host, const std::string& directory);
  absl::StatusOr<Draft> FromLocation(const std::string& location, size_t matched, bool insecure,
                                     const std::string& origin);
  absl::Status AddCertificates(Draft& draft);

  const HostResolver::Options& options_;
  const Reference& reference_;
  WatchedFiles& files_;
  std::string own_directory_;  // one of containerd's that has certificates only
  std::vector<Draft> drafts_;
};

// Returns the first directory for the registry, or "".
std::string Planner::ContainerdDirectory() {
  const std::string& host = reference_.host;
  for (const std::string& root : options_.containerd_dirs) {
    for (const std::string& name : {WithUnderscores(host), host, std::string("_default")}) {
      const std::string path = StrCat(root, "/", name);
      if (!name.empty() && files_.IsDirectory(path)) return path;
    }
  }
  return "";
}

absl::StatusOr<bool> Planner::UseHostsToml() {
  const std::string directory = ContainerdDirectory();
  if (directory.empty()) return false;
  const std::string path = StrCat(directory, "/", kHostsToml);
  const absl::StatusOr<std::string> text = ReadToml(path, files_);
  if (absl::IsNotFound(text.status()) || (text.ok() && text->empty())) {
    own_directory_ = directory;
    return false;
  }
  IMAGEFS_RETURN_IF_ERROR(text.status());
  IMAGEFS_ASSIGN_OR_RETURN(const HostsToml parsed, ParseHostsToml(*text, path));
  for (const HostsToml::Host& host : parsed.hosts) {
    IMAGEFS_ASSIGN_OR_RETURN(drafts_.emplace_back(), FromHost(host, directory));
  }
  IMAGEFS_ASSIGN_OR_RETURN(drafts_.emplace_back(), FromHost(parsed.server, directory));
  return true;
}

absl::StatusOr<Planner::Draft> Planner::FromHost(const HostsToml::Host& host,
                                                 const std::string& directory) {
  Draft out;
  HostEndpoint& endpoint = out.endpoint;
  endpoint.host = host.host.empty() ? reference_.ApiHost() : host.host;
  endpoint.scheme = SchemeOf(host.scheme, endpoint.host);
  // Names of the Docker Hub under which it has no API.
  if (endpoint.host == kDockerHub) endpoint.host = std::string(kDockerHubApi);
  endpoint.root = host.root;
  endpoint.repository = reference_.repository;
  endpoint.mirror = !IsItself(endpoint.host);
  if (endpoint.mirror) endpoint.ns = reference_.host;
  endpoint.pull = host.pull;
  endpoint.resolve = host.resolve;
  endpoint.push = host.push;
  endpoint.headers = host.headers;
  endpoint.dial_timeout = host.dial_timeout;
  endpoint.origin = StrCat(directory, "/", kHostsToml);
  out.tls.verify = !host.skip_verify;
  IMAGEFS_RETURN_IF_ERROR(
      ReadNamedCertificates(host.ca, host.client, directory, endpoint.origin, files_, out.tls));
  return out;
}

// Returns the endpoint at which the name is `location` instead of its first `matched` bytes.
absl::StatusOr<Planner::Draft> Planner::FromLocation(const std::string& location, size_t matched,
                                                     bool insecure, const std::string& origin) {
  const std::string name = reference_.ToString();
  const std::string text =
      location.empty() ? name : StrCat(location, std::string_view(name).substr(matched));
  const absl::StatusOr<Reference> there = Reference::Parse(text);
  if (!there.ok() || there->transport != Reference::Transport::kRegistry ||
      (!text.starts_with(there->host) && !text.starts_with("index.docker.io/"))) {
    return absl::InvalidArgumentError(StrCat(origin, ": makes ", name, " \"", PrintableName(text),
                                             "\", which is not HOST/REPOSITORY"));
  }
  if (there->tag != reference_.tag || there->digest != reference_.digest) {
    return absl::InvalidArgumentError(
        StrCat(origin, ": makes ", name, " ", text,
               ": a location with another tag or digest is not supported"));
  }
  Draft out;
  out.endpoint.host = there->ApiHost();
  out.endpoint.scheme = insecure ? Scheme::kHttpsOrHttp : SchemeOf("", there->host);
  out.endpoint.repository = there->repository;
  out.endpoint.origin = origin;
  out.tls.verify = !insecure;
  return out;
}

absl::Status Planner::UseRegistriesConf(const RegistriesConf& conf) {
  const std::string name = reference_.ToString();
  const RegistriesConf::Registry* const registry = FindRegistry(conf, name);
  if (registry == nullptr) return absl::OkStatus();
  if (registry->blocked) {
    return absl::PermissionDeniedError(
        StrCat(name, " is blocked by ", registry->origin, " (`blocked = true`)"));
  }
  const size_t matched = MatchPrefix(name, registry->prefix);
  for (const RegistriesConf::Mirror& mirror : registry->mirrors) {
    IMAGEFS_ASSIGN_OR_RETURN(
        Draft draft, FromLocation(mirror.location, matched, mirror.insecure, registry->origin));
    draft.endpoint.pull = mirror.digests;
    draft.endpoint.resolve = mirror.tags;
    draft.endpoint.push = false;
    draft.endpoint.mirror = !IsItself(draft.endpoint.host);
    if (draft.endpoint.mirror && draft.endpoint.repository == reference_.repository) {
      draft.endpoint.ns = reference_.host;
    }
    drafts_.push_back(std::move(draft));
  }
  IMAGEFS_ASSIGN_OR_RETURN(
      drafts_.emplace_back(),
      FromLocation(registry->location, matched, registry->insecure, registry->origin));
  return absl::OkStatus();
}

absl::Status Planner::AddCertificates(Draft& draft) {
  std::vector<std::string> names = {draft.endpoint.host};
  if (draft.endpoint.host == kDockerHubApi) names.insert(names.begin(), std::string(kDockerHub));
  std::set<std::string> directories;  // one may be configured twice
  if (!own_directory_.empty() && IsItself(draft.endpoint.host)) {
    directories.insert(own_directory_);
    IMAGEFS_RETURN_IF_ERROR(ReadCertificateDirectory(own_directory_, files_, draft.tls));
  }
  for (const std::string& root : options_.certificate_dirs) {
    for (const std::string& name : names) {
      const std::string directory = StrCat(root, "/", name);
      if (!directories.insert(directory).second) continue;
      IMAGEFS_RETURN_IF_ERROR(ReadCertificateDirectory(directory, files_, draft.tls));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<HostPlan> Planner::Finish() {
  if (drafts_.empty()) {
    Draft& own = drafts_.emplace_back();
    own.endpoint.host = reference_.ApiHost();
    own.endpoint.scheme = SchemeOf("", reference_.host);
    own.endpoint.repository = reference_.repository;
  }
  HostPlan out;
  for (Draft& draft : drafts_) {
    IMAGEFS_RETURN_IF_ERROR(AddCertificates(draft));
    draft.endpoint.tls = std::make_shared<const TlsSettings>(std::move(draft.tls));
    out.push_back(std::move(draft.endpoint));
  }
  return out;
}

struct LoadedConf {
  WatchedFiles files;
  absl::StatusOr<RegistriesConf> conf;
  bool by_tag = false;  // a prefix has a tag or digest
};

}  // namespace

std::string HostEndpoint::Name() const {
  const bool https = scheme == Scheme::kHttps || scheme == Scheme::kHttpsOrHttp;
  return StrCat(https ? "https" : "http", "://", host, root);
}

bool HostEndpoint::operator==(const HostEndpoint& other) const {
  const auto all = [](const HostEndpoint& e) {
    return std::tie(e.scheme, e.host, e.root, e.repository, e.ns, e.mirror, e.pull, e.resolve,
                    e.push, e.headers, e.dial_timeout, e.origin);
  };
  return all(*this) == all(other) && (tls == other.tls || (tls && other.tls && *tls == *other.tls));
}

class HostResolver::Impl {
 public:
  explicit Impl(Options options) : options_(std::move(options)) {}

  absl::StatusOr<std::shared_ptr<const HostPlan>> PlanFor(const Reference& reference);
  std::vector<std::string> Files() const;

 private:
  struct Entry {
    WatchedFiles files;
    std::shared_ptr<const LoadedConf> conf;  // null: was not needed
    absl::StatusOr<std::shared_ptr<const HostPlan>> plan;
  };
  template <typename T>
  struct Checked {
    std::shared_ptr<const T> value;
    Clock::time_point when;
  };

  Clock::time_point Now() const { return options_.now ? options_.now() : Clock::now(); }
  std::shared_ptr<const LoadedConf> Conf();
  std::shared_ptr<const Entry> Make(const Reference& reference,
                                    std::shared_ptr<const LoadedConf> conf) const;

  const Options options_;
  // Not held while files are read: two threads may read the same, and the later one counts.
  absl::Mutex mu_;
  Checked<LoadedConf> conf_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<std::string, Checked<Entry>> entries_ ABSL_GUARDED_BY(mu_);
};

// Returns the registries.conf that was valid at most kRecheck ago.
std::shared_ptr<const LoadedConf> HostResolver::Impl::Conf() {
  const Clock::time_point now = Now();
  Checked<LoadedConf> have;
  {
    absl::MutexLock lock(&mu_);
    have = conf_;
  }
  if (have.value != nullptr && now - have.when < kRecheck) return have.value;
  if (have.value == nullptr || have.value->files.Changed()) {
    auto loaded = std::make_shared<LoadedConf>();
    loaded->conf = LoadRegistriesConf(options_, loaded->files);
    if (loaded->conf.ok()) {
      for (const RegistriesConf::Registry& registry : loaded->conf->registries) {
        const size_t slash = registry.prefix.find('/');
        loaded->by_tag |= slash != std::string::npos &&
                          registry.prefix.find_first_of(":@", slash) != std::string::npos;
      }
    }
    have.value = std::move(loaded);
  }
  absl::MutexLock lock(&mu_);
  conf_ = {have.value, now};
  return have.value;
}

std::shared_ptr<const HostResolver::Impl::Entry> HostResolver::Impl::Make(
    const Reference& reference, std::shared_ptr<const LoadedConf> conf) const {
  auto entry = std::make_shared<Entry>();
  Planner planner(options_, reference, entry->files);
  const auto make = [&]() -> absl::StatusOr<HostPlan> {
    IMAGEFS_ASSIGN_OR_RETURN(const bool decided, planner.UseHostsToml());
    if (!decided) {
      entry->conf = std::move(conf);
      IMAGEFS_RETURN_IF_ERROR(entry->conf->conf.status());
      IMAGEFS_RETURN_IF_ERROR(planner.UseRegistriesConf(*entry->conf->conf));
    }
    return planner.Finish();
  };
  if (absl::StatusOr<HostPlan> plan = make(); plan.ok()) {
    entry->plan = std::make_shared<const HostPlan>(*std::move(plan));
  } else {
    entry->plan = plan.status();
  }
  return entry;
}

absl::StatusOr<std::shared_ptr<const HostPlan>> HostResolver::Impl::PlanFor(
    const Reference& reference) {
  MayBlock("reading which hosts serve a registry");
  if (reference.transport != Reference::Transport::kRegistry) {
    return absl::InvalidArgumentError(StrCat(reference.ToString(), " is in no registry"));
  }
  const Clock::time_point now = Now();
  std::shared_ptr<const LoadedConf> conf = Conf();
  const std::string key =
      conf->by_tag ? reference.ToString() : StrCat(reference.host, "/", reference.repository);
  Checked<Entry> have;
  {
    absl::MutexLock lock(&mu_);
    if (const auto it = entries_.find(key); it != entries_.end()) have = it->second;
  }
  bool valid = have.value != nullptr && (have.value->conf == nullptr || have.value->conf == conf);
  if (valid && now - have.when < kRecheck) return have.value->plan;
  valid = valid && !have.value->files.Changed();
  if (!valid) have.value = Make(reference, std::move(conf));
  absl::MutexLock lock(&mu_);
  if (!entries_.contains(key)) BoundTable(entries_);
  entries_[key] = {have.value, now};
  return have.value->plan;
}

std::vector<std::string> HostResolver::Impl::Files() const {
  MayBlock("listing files");
  WatchedFiles files;
  std::set<std::string> out;
  const auto list = [&](const std::string& directory) {
    return files.List(directory).value_or(std::vector<std::string>());
  };
  const auto add = [&](std::string path) {
    if (out.size() < kMaxListed && access(path.c_str(), F_OK) == 0) out.insert(std::move(path));
  };
  for (const std::string& root : options_.containerd_dirs) {
    for (const std::string& host : list(root)) add(StrCat(root, "/", host, "/", kHostsToml));
  }
  for (const auto& [file, directory] : options_.registries_conf) {
    if (!file.empty()) add(file);
    for (const std::string& path : DropIns(directory, files).value_or(std::vector<std::string>())) {
      add(path);
    }
  }
  std::set<std::string> roots(options_.certificate_dirs.begin(), options_.certificate_dirs.end());
  roots.insert(options_.containerd_dirs.begin(), options_.containerd_dirs.end());
  for (const std::string& root : roots) {
    for (const std::string& host : list(root)) {
      const std::string directory = StrCat(root, "/", host);
      for (const std::string& name : list(directory)) {
        if (IsCertificateFile(name)) add(StrCat(directory, "/", name));
      }
    }
  }
  return {out.begin(), out.end()};
}

HostResolver::HostResolver(Options options) : impl_(std::make_unique<Impl>(std::move(options))) {}
HostResolver::~HostResolver() = default;

absl::StatusOr<std::shared_ptr<const HostPlan>> HostResolver::PlanFor(const Reference& reference) {
  return impl_->PlanFor(reference);
}

std::vector<std::string> HostResolver::Files() const { return impl_->Files(); }

HostResolver::Options HostResolver::SystemOptions(const std::string& home,
                                                  const std::string& xdg_config_home,
                                                  const std::string& registries_conf) {
  const std::string etc = "/etc/containers";
  std::string user;
  if (!home.empty()) {
    user =
        StrCat(xdg_config_home.empty() ? StrCat(home, "/.config") : xdg_config_home, "/containers");
  }
  Options out;
  out.containerd_dirs = {"/etc/containerd/certs.d", "/etc/docker/certs.d"};
  out.certificate_dirs = {etc + "/certs.d", "/etc/docker/certs.d"};
  if (!user.empty()) out.certificate_dirs.push_back(user + "/certs.d");
  const auto pair = [](const std::string& directory, bool with_file) {
    const std::string file = directory + "/registries.conf";
    return std::pair(with_file ? file : "", file + ".d");
  };
  if (!registries_conf.empty()) {
    out.registries_conf = {{registries_conf, ""}};
  } else if (user.empty()) {
    out.registries_conf = {pair(etc, true)};
  } else if (access((user + "/registries.conf").c_str(), F_OK) == 0) {
    out.registries_conf = {pair(user, true)};
  } else {
    out.registries_conf = {pair(etc, true), pair(user, false)};
  }
  return out;
}

bool IsShortName(std::string_view text) {
  const std::string_view name = text.substr(0, text.find('@'));
  const std::string_view first = name.substr(0, name.find('/'));
  if (first.empty() || text.find("://") != text.npos) return false;
  for (const std::string_view transport : {"oci:", "oci-archive:", "docker-archive:"}) {
    if (text.starts_with(transport)) return false;
  }
  // An id of an image.
  if (text.size() == 64 && text.find_first_not_of("0123456789abcdef") == text.npos) return false;
  if (first.size() == name.size()) return true;
  return first.find_first_of(".:") == first.npos && first != "localhost" && ToLower(first) == first;
}

absl::StatusOr<std::string> CompleteShortName(const std::string& text, ShortNames mode,
                                              const HostResolver::Options& options) {
  if (mode == ShortNames::kDocker || !IsShortName(text)) return text;
  WatchedFiles files;
  IMAGEFS_ASSIGN_OR_RETURN(const RegistriesConf conf, LoadRegistriesConf(options, files));
  const size_t end = std::min(text.find_first_of(":@"), text.size());
  const std::string name = text.substr(0, end), suffix = text.substr(end);
  if (const auto alias = conf.aliases.find(name);
      alias != conf.aliases.end() && !alias->second.empty()) {
    return alias->second + suffix;
  }
  if (mode == ShortNames::kSearch && conf.search_registries && !conf.search_registries->empty()) {
    return StrCat(conf.search_registries->front(), "/", text);
  }
  return text;
}

}  // namespace imagefs
