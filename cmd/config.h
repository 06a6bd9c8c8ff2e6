// SPDX-License-Identifier: Apache-2.0
// The daemon's configuration file (TOML).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cache/index_trust.h"
#include "cache/store_space.h"
#include "cmd/listen_address.h"
#include "fetch/hosts.h"
#include "fetch/ip_address.h"
#include "image/index_signature.h"

namespace imagefs {

struct Config {
  // [index]: lazy images, which are mounted before their bytes are local.
  bool index_lookup = true;
  // For mounts by the command. A digest does not cover what others push to the repository, so
  // images named by digest have their own setting.
  IndexTrust index_trust = IndexTrust::Any();
  IndexTrust index_trust_pinned = IndexTrust::Configured();
  std::vector<std::string> index_repositories;
  IndexKeys index_keys;  // an index signed by one of them is trusted in any repository
  bool index_publish = false;
  std::string index_publish_to;  // "" = the image's own repository
  absl::Duration index_publish_spread = absl::Seconds(10);
  std::vector<std::string> index_publish_images = {"**"};  // patterns as in LazyPolicy
  uint64_t index_memory = 64 << 20;                        // bytes
  // On so many processors or more, a large layer that is not lazy is decompressed by the spans of
  // its index on all of them; 0 = never.
  uint64_t index_least_processors = 4;
  // [containerd] and [podman]: the images whose snapshots and layers are lazy.
  IndexTrust containerd_lazy = IndexTrust::Trusted(), podman_lazy = IndexTrust::Trusted();
  std::vector<std::string> containerd_lazy_images, podman_lazy_images;
  bool containerd_keep_blobs = false;  // give containerd's content store the blobs of lazy layers
  // [fill]: how lazy images are fetched.
  bool fill_background = true;
  bool fill_hot_pack = true;
  bool fill_unverified =
      true;  // uncompressed layers are shown before any of their bytes is verified
  absl::Duration fill_quiet = absl::Seconds(5);
  absl::Duration fill_deadline = absl::Seconds(60);
  // [network]: where registries may redirect to, and how slow they may be.
  std::vector<IpPrefix> network_allow;
  uint64_t network_least_rate = 1024;  // bytes per second; 0 = no limit
  // [hosts]: files that say which hosts serve a registry; nullopt = those of the machine and user.
  std::optional<std::vector<std::string>> hosts_containerd;    // directories
  std::optional<std::vector<std::string>> hosts_containers;    // registries.conf files
  std::optional<std::vector<std::string>> hosts_certificates;  // directories
  ShortNames short_names = ShortNames::kAliases;
  // [log]
  std::string log_level;  // "" = the default
  // [profile]
  bool profile = true;
  // [store]
  absl::Duration store_scrub = absl::Hours(7 * 24);  // 0 = never
  SpaceLimits space;                                 // [store] and fill.min_free
  absl::Duration store_keep_partial = absl::Hours(24);
  std::vector<std::string> store_shared;  // directories of shared stores
  bool store_open = false;  // sharing = "open": anybody who names a layer's DiffID may use it
  // [verify]: programs that say whether an image may be used.
  std::string verify_bin_dir;                         // "" = none
  absl::Duration verify_timeout = absl::Seconds(10);  // of each program
  bool verify_require = false;                        // without programs, no image may be used
  // [mount]
  bool loop_devices = true;  // used if the kernel cannot mount from files
  // [podman]
  bool podman_layers = false;  // serve <run>/als
  // [metrics]
  std::optional<ListenAddress> metrics_listen;  // nullopt = not served
  bool metrics_page = false;                    // serve the status page there, too
  // [credentials]: sources of credentials besides the files of the daemon's user.
  std::string kubelet_config;   // CredentialProviderConfig; "" = none
  std::string kubelet_bin_dir;  // directory of its plugins
  bool cri_proxy = false;       // serve <run>/cri.sock
  std::string containerd_socket =
      "/run/containerd/containerd.sock";  // for cri_proxy and keep_blobs

  // The trust policy for each kind of client.
  LazyPolicy CommandPolicy() const {
    return Restricted(LazyPolicy(index_trust).Pinned(index_trust_pinned));
  }
  LazyPolicy ContainerdPolicy() const {
    return Restricted(LazyPolicy(containerd_lazy, containerd_lazy_images));
  }
  LazyPolicy PodmanPolicy() const {
    return Restricted(LazyPolicy(podman_lazy, podman_lazy_images));
  }
  // Adds what holds for all clients.
  LazyPolicy Restricted(LazyPolicy policy) const {
    return fill_unverified ? policy : policy.Never(IndexSource::kUnverified);
  }

  // What [hosts] says; parameters as for HostResolver::SystemOptions. The drop-ins of a named file
  // are in the directory FILE.d.
  HostResolver::Options HostsOptions(const std::string& home, const std::string& xdg_config_home,
                                     const std::string& registries_conf) const;
  // With those of this process: its user and its environment.
  HostResolver::Options HostsOptions() const;
};

// Unknown names are errors, because a setting that is silently ignored helps nobody. The error
// names the line. Reads the key files that index.keys names.
absl::StatusOr<Config> ParseConfig(std::string_view text, const std::string& path);

// Returns the file that LoadConfig reads.
std::string ConfigFile(const std::string& path);

// Loads the file `path`, or, if it is "", /etc/imagefs/config.toml (root) or
// $XDG_CONFIG_HOME/imagefs/config.toml, which need not exist.
absl::StatusOr<Config> LoadConfig(const std::string& path);

}  // namespace imagefs
