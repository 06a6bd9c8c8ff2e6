// SPDX-License-Identifier: Apache-2.0
// Which endpoints serve a registry's repository, in which order and with which settings, as this
// machine's administrator configured it for containerd, docker, podman and their kin. Every request
// to a registry goes by such a plan.
//
// Two trees of files are read. The first that knows the registry decides:
//   1. containerd's: DIR/<host>/hosts.toml, where <host> is "HOST", or "HOST_PORT_" or "HOST:PORT"
//      for a registry with a port, else DIR/_default/hosts.toml.
//   2. containers' registries.conf (containers-registries.conf(5)) with its registries.conf.d.
// Certificates come from hosts.toml, and for every endpoint from certs.d directories as docker and
// podman read them (containers-certs.d(5)): DIR/<host:port>/*.crt, *.cert with *.key.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "fetch/tls_settings.h"
#include "image/reference.h"

namespace imagefs {

// One place to ask for a repository. A value type.
struct HostEndpoint {
  enum class Scheme {
    kHttps,
    kHttp,
    kEither,       // a loopback host: HTTP, or HTTPS if it does not answer that
    kHttpsOrHttp,  // declared insecure: HTTPS, or HTTP if it does not speak that
  };
  Scheme scheme = Scheme::kHttps;
  std::string host;          // to connect to, "HOST[:PORT]"; credentials are looked up by it
  std::string root = "/v2";  // the path before "/REPOSITORY/...", without a trailing slash
  std::string repository;    // as it is called there
  std::string ns;            // the value of the query parameter "ns"; "" = none is sent
  bool mirror = false;       // not the registry itself
  // What may be asked of it: contents by digest; tags; uploads.
  bool pull = true, resolve = true, push = true;
  std::shared_ptr<const TlsSettings> tls;                    // never null
  std::vector<std::pair<std::string, std::string>> headers;  // sent with each request to `host`
  std::optional<std::chrono::milliseconds> dial_timeout;
  std::string origin;  // the file that names it, for messages; "" = none does

  // "https://mirror.example:5000/v2", for messages.
  std::string Name() const;
  bool operator==(const HostEndpoint&) const;
};

// In order of preference; never empty.
using HostPlan = std::vector<HostEndpoint>;

// Reads and caches the files. A change is noticed within kRecheck of the next call. Thread-safe.
class HostResolver {
 public:
  static constexpr std::chrono::milliseconds kRecheck{1'000};

  struct Options {
    std::vector<std::string> containerd_dirs;  // the first that has a directory for the host counts
    // registries.conf files with their .d directories: (file, directory), the later override the
    // earlier ones. Either may be "". A missing file is no error.
    std::vector<std::pair<std::string, std::string>> registries_conf;
    std::vector<std::string> certificate_dirs;                   // certs.d: all are read
    std::function<std::chrono::steady_clock::time_point()> now;  // null = real clock
  };
  // The folders of this machine, and those of the user for a user's daemon: containerd's and
  // docker's certs.d, /etc/containers, $XDG_CONFIG_HOME/containers or ~/.config/containers,
  // $CONTAINERS_REGISTRIES_CONF, which is then the only registries.conf. A user's registries.conf
  // that exists now replaces the machine's and its directory; without one, the user's directory
  // adds to them. `home` "" = root's daemon, no user's folders.
  static Options SystemOptions(const std::string& home, const std::string& xdg_config_home,
                               const std::string& registries_conf);

  explicit HostResolver(Options options);
  ~HostResolver();

  // Returns the endpoints for the repository of `reference`, which must name a registry. Without
  // any configuration that is the registry itself. Returns kPermissionDenied if the registry is
  // blocked, kInvalidArgument with file and line for a malformed file, and kFailedPrecondition for
  // one that cannot be read: a pull that silently went elsewhere than configured would be worse
  // than one that fails. Blocks on local disk only.
  absl::StatusOr<std::shared_ptr<const HostPlan>> PlanFor(const Reference& reference);

  // The files in use, for `imagefs status`: those that exist.
  std::vector<std::string> Files() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// How a name without a host ("fedora") is completed.
enum class ShortNames {
  kDocker,   // as docker does: docker.io
  kAliases,  // [aliases] of registries.conf, else docker.io
  kSearch    // [aliases], else the first of unqualified-search-registries, else docker.io
};
// Returns whether `text` has neither a host nor a transport.
bool IsShortName(std::string_view text);
// Returns `text`, which may have a tag or digest, with the host that the files give it; unchanged
// if it has a host or a transport, or none of the files knows it. Errors like PlanFor.
absl::StatusOr<std::string> CompleteShortName(const std::string& text, ShortNames mode,
                                              const HostResolver::Options& options);

}  // namespace imagefs
