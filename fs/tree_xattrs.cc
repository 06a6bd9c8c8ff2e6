// SPDX-License-Identifier: Apache-2.0
#include "fs/tree_xattrs.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cstdint>

#include "base/fd.h"
#include "base/text.h"

namespace imagefs {

bool IsHiddenXattr(bool overlay_form, std::string_view name) {
  constexpr std::string_view kOverlay = "trusted.overlay.";
  constexpr std::string_view kOwn = "trusted.imagefs.";
  return name.starts_with(kOwn) || (!overlay_form && name.starts_with(kOverlay));
}

std::optional<std::string> ImageXattr(const Chain& chain, std::string_view name) {
  constexpr std::string_view kPrefix = "user.imagefs.";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  if (name == "chain-id") return chain.chain_id.ToString();
  if (name == "state") return chain.complete() ? "complete" : "filling";
  uint64_t present = 0, total = 0;
  for (const LayerRef& layer : chain.layers) {
    if (layer->fill == nullptr) continue;
    const LayerFill::Progress progress = layer->fill->progress();
    present += progress.present;
    total += progress.total;
  }
  if (name == "bytes-present") return StrCat(present);
  if (name == "bytes-total") return StrCat(total);
  return std::nullopt;
}

bool MayListTrusted(pid_t process_id) {
  constexpr int kCapSysAdmin = 21;
  const std::string process = StrCat("/proc/", process_id);
  char theirs[64], ours[64];
  const ssize_t size = readlink((process + "/ns/user").c_str(), theirs, sizeof(theirs));
  if (size <= 0 || readlink("/proc/self/ns/user", ours, sizeof(ours)) != size ||
      memcmp(theirs, ours, static_cast<size_t>(size)) != 0) {
    return false;
  }
  // Not OpenFile: this thread must not wait for a disk, which proc never does.
  const Fd file(open((process + "/status").c_str(), O_RDONLY | O_CLOEXEC));
  char status[1 << 14];
  const ssize_t got = file.valid() ? read(file.get(), status, sizeof(status) - 1) : -1;
  if (got <= 0) return false;
  status[got] = '\0';
  const char* const line = strstr(status, "\nCapEff:\t");
  if (line == nullptr) return false;
  const uint64_t capabilities = strtoull(line + 9, nullptr, 16);
  return (capabilities >> kCapSysAdmin & 1) != 0;
}

}  // namespace imagefs
