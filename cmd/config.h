// SPDX-License-Identifier: Apache-2.0
// The daemon's configuration file (TOML). The only user of toml++ is this header's .cc.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cache/index_trust.h"
#include "fetch/ip_address.h"
#include "image/index_signature.h"

namespace imagefs {

struct Config {
  // [index]: how images are shown before their bytes are here.
  bool index_lookup = true;
  // Of the command's mounts; of images that are named by a digest, which does not cover what others
  // push to the repository.
  IndexTrust index_trust = IndexTrust::Any();
  IndexTrust index_trust_pinned = IndexTrust::Configured();
  std::vector<std::string> index_repositories;
  IndexKeys index_keys;  // an index that one of them signed is believed wherever it lies
  bool index_publish = false;
  std::string index_publish_to;      // "" = the image's own repository
  uint64_t index_memory = 64 << 20;  // bytes
  // [containerd] and [podman]: of which images snapshots and layers are lazy.
  IndexTrust containerd_lazy = IndexTrust::Trusted(), podman_lazy = IndexTrust::Trusted();
  std::vector<std::string> containerd_lazy_images, podman_lazy_images;
  // [fill]: how their bytes come.
  bool fill_background = true;
  absl::Duration fill_quiet = absl::Seconds(5);
  absl::Duration fill_deadline = absl::Seconds(60);
  // [network]: where registries may lead to, and how slow they may be.
  std::vector<IpPrefix> network_allow;
  uint64_t network_least_rate = 1024;  // bytes a second; 0 = no transfer is too slow
  // [profile]
  bool profile = true;
  // [store]
  absl::Duration store_scrub = absl::Hours(7 * 24);  // 0 = never
  bool store_open = false;  // sharing = "open": a layer is everybody's who names its DiffID
  // [mount]
  bool loop_devices = true;  // where the kernel mounts nothing from files
  // [podman]
  bool podman_layers = false;  // serve <run>/als
  // [credentials]: what this node has beside the files of the daemon's user.
  std::string kubelet_config;   // CredentialProviderConfig; "" = none
  std::string kubelet_bin_dir;  // of its plugins
  bool cri_proxy = false;       // serve <run>/cri.sock
  std::string containerd_socket = "/run/containerd/containerd.sock";  // what that passes on to

  // Whom each kind of user believes.
  LazyPolicy CommandPolicy() const { return LazyPolicy(index_trust).Pinned(index_trust_pinned); }
  LazyPolicy ContainerdPolicy() const {
    return LazyPolicy(containerd_lazy, containerd_lazy_images);
  }
  LazyPolicy PodmanPolicy() const { return LazyPolicy(podman_lazy, podman_lazy_images); }
};

// Unknown names are errors: a setting that does nothing helps nobody. The error names the line.
// Reads the files of keys that index.keys names.
absl::StatusOr<Config> ParseConfig(std::string_view text, const std::string& path);

// Which file LoadConfig reads.
std::string ConfigFile(const std::string& path);

// Of the file `path`; with "", /etc/imagefs/config.toml (root) or
// $XDG_CONFIG_HOME/imagefs/config.toml, which need not exist.
absl::StatusOr<Config> LoadConfig(const std::string& path);

}  // namespace imagefs
